// topostream, Apache-2.0. Built from stream/client/js/src by build.mjs: change that, not this.
var S=["lans","deckies","edges"],v=d=>d.id??d.uuid;function _(d,t,e=!1){let i=(n,l)=>n?.[l]??[],a=new Set(e?[]:t.removed?.
map(({id:n})=>n));if(e){for(let n of S)for(let l of i(t,n))a.add(v(l));for(let n of S)for(let l of i(t.before,n))a.delete(
v(l))}let r={};for(let n of S){let l=i(d,n),h=new Map(i(e?t.before:t,n).map(s=>[v(s),s])),o=[];for(let s of l){let f=h.get(
v(s));h.delete(v(s)),f?o.push(e||t.truncated?{...s,...f}:f):[v(s),s.lan_id,s.decky_uuid].some(u=>a.has(u))||o.push(s)}o.
push(...h.values()),r[n]=o.length===l.length&&o.every((s,f)=>s===l[f])?l:o}return r}var x={now:()=>performance.now(),setTimeout:(d,t)=>setTimeout(d,t),clearTimeout:d=>clearTimeout(d),random:()=>Math.random(),
fetch:(...d)=>fetch(...d),window:globalThis};function L(d){return{id:d,part:"waiting",problem:null,seq:null,status:null,reason:null,version:null,in_flight:[],in_flight_total:0,
graph:null,graph_pending:[],broken:null}}function C(d,t){let{topology_id:e,lans:i,deckies:a,edges:r,graph_pending:n=[],...l}=t;
return{...d,...l,id:e,part:"live",problem:null,graph:i&&a&&r?{lans:i,deckies:a,edges:r}:null,graph_pending:n}}function P(d,t){
let{type:e,seq:i,ts:a,payload:r}=t,n=r??{},l=n.mutation_id??"",{in_flight:h,in_flight_total:o}=d,s=h.find(m=>m.id===l),f=h.
filter(m=>m!==s),u={...s??{id:l,topology_id:d.id,op:n.op??"",payload:n.payload??null},state:e==="mutation.applying"?"app\
lying":"pending"},c={...d,seq:i,part:"live",problem:null};switch(e){case"mutation.enqueued":return h.length===o&&(c.in_flight=
[...f,{...u,requested_at:a}]),{...c,in_flight_total:o+1};case"mutation.requeued":case"mutation.applying":return s||n.payload!==
void 0?{...c,in_flight:[u,...f]}:c;case"mutation.applied":case"mutation.failed":return k({...c,version:n.version??d.version,
in_flight:f,in_flight_total:o-1},n.result);case"graph":return k(c,r);case"status":return{...c,status:n.state??d.status,reason:n.
reason??null};case"deleted":return{...c,part:"deleted"};default:return c}}function k(d,t){if(!d.graph||!t)return d;let e=[
...d.graph_pending,t];return t.more?{...d,graph_pending:e}:{...d,graph:e.reduce((i,a)=>_(i,a),d.graph),graph_pending:[]}}function q(d,t){let e=new TextDecoder,i="",a=!1,r="",n=null,l=null;function h(o){if(!o){n!==null&&d({event:r||"message",
data:n,id:l}),r="",n=l=null;return}let s=o.indexOf(":"),f=s<0?o:o.slice(0,s),u=s<0?"":o.slice(s+(o[s+1]===" "?2:1));f===
"data"?n=n===null?u:`${n}
${u}`:f==="event"?r=u:f==="id"&&!u.includes("\0")?l=u:f==="retry"&&/^\d+$/.test(u)&&t(+u)}return o=>{let s=e.decode(o,{stream:!0});
if(!s)return;a&&s[0]===`
`&&(s=s.slice(1)),a=s.endsWith("\r");let f=/\r\n?|\n/g,u=0;for(let c;c=f.exec(s);u=f.lastIndex){let m=i+s.slice(u,c.index);
i="",h(m)}i+=s.slice(u)}}var w=class extends Error{constructor(e,i){super(i);this.status=e}status},g=1e3,G=60*g,O=30*g,$=5*g,E=class{l;e;s=new Set;m=new Map;t;i;ot=!0;r={
state:"idle"};o;w=!1;N;z={event:new Set,connection:new Set,violation:new Set};M=new Set;D;b;R;O=!1;B=2*g;$=0;c;S;p;J=0;U=-G;_=!1;K;constructor(t={}){
this.l=t,this.e={...x,...t.host};let e=(t.url??"").replace(/\/+$/,"");this.N=e.endsWith("/events")?e:e+"/api/v1/events";
for(let l of t.topologies??[])this.add(l);let{signal:i,onEvent:a,onConnection:r,onViolation:n}=t;i?.addEventListener("ab\
ort",this.close),i?.aborted&&this.close(),a&&this.on("event",a),r&&this.on("connection",r),n&&this.on("violation",n)}get topologies(){
return[...this.s]}add(t){t=t.toLowerCase(),!this.s.has(t)&&(this.s.add(t),this.g(t),this.Q())}remove(t){t=t.toLowerCase(),
this.s.delete(t)&&(this.st(t),this.Q())}open(){this.w||this.r.state==="closed"||(this.w=!0,this.e.window.addEventListener?.(
"online",this.X),this.rt())}reconnect(){this._=!1,this.w?this.t||this.h():this.open()}close=()=>{this.r.state!=="closed"&&
(this.l.signal?.removeEventListener("abort",this.close),this.e.window.removeEventListener?.("online",this.X),this.at(),this.d(
{state:"closed"}))};on(t,e){let i=this.z[t];return i.add(e),this.open(),()=>{i.delete(e)}}subscribe=t=>(this.M.add(t),this.
open(),()=>{this.M.delete(t)});getSnapshot=()=>(this.b??=Object.fromEntries(this.topologies.map(t=>[t,this.g(t).n])),this.l.
list&&this.o&&(this.R??=[...this.o.values()]),this.D??={connection:this.r,topologies:this.b,list:this.R??null});async*[Symbol.
asyncIterator](){let t=[],e=()=>{},i=[this.on("event",a=>{t.push(a),e()}),this.on("connection",()=>e())];try{for(;;){let a=t;
t=[],yield*a;let r=this.r;if(!t.length){if(r.state==="closed"||r.state==="ended")return;if(r.state==="refused")throw new w(
r.status,r.reason);await new Promise(n=>{e=n})}}}finally{for(let a of i)a()}}rt(){this.E()}at(){this.t?.a.abort(),this.i?.a.
abort(),this.t=this.i=void 0;for(let t of[this.c,this.S,this.p])this.e.clearTimeout(t);this.c=this.S=this.p=void 0}lt(){
return{T:this.s,Y:!!this.l.graph,o:!!this.l.list}}A(t){}st(t){this.m.delete(t)}g(t){let e=this.m.get(t);return e||this.m.
set(t,e={n:L(t),Z:!1,u:!1}),e}j(){let t=this.lt(),e=[...t.T].filter(i=>!/^(del|ref)/.test(this.g(i).n.part)).sort();return{
...t,T:e,x:e+`|${t.Y}|${t.o}`}}Q(){this.b=void 0,this.k(),this.E()}E(){this.w&&(this.S??=this.e.setTimeout(()=>{if(this.S=
void 0,this.L(),this.i||/^(ref|clo)/.test(this.r.state))return;let t=this.t;(t?t.tt||t.x!==this.j().x:!this.c)&&this.h()},
0))}X=()=>{this.r.state==="waiting"&&this.h()};h=()=>{if(this.e.clearTimeout(this.c),this.c=void 0,!this.ot||this.i||this.r.
state==="closed")return;let{T:t,x:e,Y:i,o:a}=this.j();if(!t[0]&&!a){this.t?.a.abort(),this.t=void 0,this.d({state:this.s.
size?"ended":"idle"});return}let r={a:new AbortController,x:e,tt:!1,y:new Map,dt:[],C:void 0,V:!1,W:!1,P:"",H:0},n={};for(let l of t){
let h=this.g(l),{seq:o,graph:s}=h.n;h.u||=i&&!s&&o!==null;let f=n[l]=h.u?null:o;r.y.set(l,{q:f,F:o})}this.i=r,this.t||this.d(
{state:"connecting"}),this.ht(r,JSON.stringify({topologies:n,...i&&{graph:i},...a&&{list:a}}))};async ht(t,e){let{e:i,l:{
getToken:a,credentials:r,keepalive:n=15*g}}=this,{signal:l}=t.a,h=i.now(),o=0,s=0,f,u=p=>{i.clearTimeout(f),i.clearTimeout(
m),t.a.abort(),t.P||=String(p),this.et(t,o,s)},c=()=>{let p=h+3*n-i.now();p<=0?u(`no byte came for ${3*n} ms`):f=i.setTimeout(
c,p)},m=i.setTimeout(()=>{t!==this.i||!this.t||(this.t.a.abort(),this.t=void 0,this.d({state:"connecting"}))},$);c();try{
t.C=await a?.(this.K)??void 0;let p=await i.fetch(this.N,{method:"POST",body:e,signal:l,cache:"no-store",...r&&{credentials:r},
headers:{"Content-Type":"application/json",...t.C&&{Authorization:"Bearer "+t.C}}});h=i.now(),o=p.status;let{headers:T}=p;
if(o===200&&T.get("Content-Type")?.startsWith("text/event-stream")){this.ut(t);let b=q(y=>this.ft(t,y),y=>{this.B=y}),R=p.
body.getReader();for(let y;!(y=await R.read()).done&&!l.aborted;)h=i.now(),b(y.value),this.L();u("the stream has ended")}else{
s=K(T.get("Retry-After"));let b=await p.json().catch(()=>null);u(b?.detail??`HTTP ${o}`)}}catch(p){u(p?.message??p)}}ut(t){
if(t===this.i){this.t?.a.abort(),this.t=t,this.i=this.K=void 0,this._=!1,t.H=this.e.now(),this.e.clearTimeout(this.p),this.p=
void 0;for(let e of t.y.keys()){let i=this.m.get(e);i&&(i.Z=!0,i.n.part==="unavailable"&&this.f(i,{part:"waiting",problem:null}))}
this.d({state:"open"}),this.E()}}et(t,e,i){let a=t===this.i;if(a)this.i=void 0;else if(t===this.t)this.t=void 0;else return;
let{P:r,V:n,C:l}=t;if((t.W||e===401)&&(this.K=l),a&&e>=400&&e<500&&e!==408&&e!==425&&e!==429){if(e===401&&this.l.getToken&&
!this._){this._=!0,this.h();return}let u=[...t.y.keys()].map(c=>this.g(c)).filter(c=>!c.Z);if(e===403&&u[0]&&u.length<t.y.
size){for(let c of u)this.f(c,{part:"refused",problem:r});this.h(),this.L();return}if(!this.t){this.d({state:"refused",status:e,
reason:r});return}}if(this.i){this.d({state:"connecting"});return}let h=t.H&&this.e.now()-t.H>15*g;this.$=n||h?0:this.$+
1;let o=Math.max(t.W&&n?0:this.nt(this.$),i),{T:[s],o:f}=this.j();if(!s&&!f){this.h();return}this.t||this.d({state:"wait\
ing",reason:r,retry_in:o}),this.c=this.e.setTimeout(this.h,o)}nt(t){let e=this.B;return t?Math.min(Math.max(O,e),e*2**(t-
1))*(.75+this.e.random()/2):e}it(){let t=this.e.now();t-this.U>G&&(this.J=0),this.U=t,this.p??=this.e.setTimeout(()=>{this.p=
void 0,this.t&&(this.t.tt=!0),this.E()},this.nt(++this.J))}ft(t,{event:e,data:i,id:a}){if(!t.a.signal.aborted)try{let r=JSON.
parse(i),{seq:n,ts:l,journaled:h,payload:o}=r,s=/^(list|topology|removed)$/.test(e)?"list":e==="snapshot"?e:h?"event":/^(unavailable|token_expired|deleted)$/.
test(e)?"notice":"raw",f=s==="notice"&&o?.topology_id||(r.topology_id??r.topic?.split(".")[1]??null);this.ct({kind:s,type:e,
topology_id:f,seq:n,ts:l,payload:s==="list"||s==="snapshot"?r:o},t,a)}catch(r){t.P=`malformed: ${r.message}`,t.V=!1,this.G(
null,"malformed",null,null),t.a.abort(),this.et(t,0,0)}}ct(t,e,i){if(e&&t.kind!=="notice"&&(e.V=!0),t.kind==="list"){this.pt(
t,e?.dt);return}let{topology_id:a,type:r}=t;if(t.kind==="notice"&&r!=="deleted"&&!t.payload.topology_id){e&&(e.W=r==="to\
ken_expired",e.P=t.payload.reason??r),this.v("event",{...t,topology_id:null});return}let n=this.m.get(a??"");if(!n)return;
let l=e?.y.get(a),{seq:h}=n.n;if(t.kind==="notice"){let o=t.type==="deleted";this.f(n,{part:o?"deleted":"unavailable",problem:t.
payload?.reason??null}),e&&!o&&this.it()}else if(t.kind!=="raw"){let{seq:o}=t;if(!Number.isSafeInteger(o)||i&&i!==`${o}`){
this.I(n,"malformed",h,o);return}if(t.kind==="snapshot"){let s=l?l.q??(n.u?h:null):null;if(l&&(l.q=l.F=o),s!==null&&o<s)
this.G(n,"back",s,o);else if(!n.u&&h!==null&&o<h)return;n.u=!1,this.f(n,C(n.n,t.payload))}else{if(l){let{q:s,F:f}=l,u=s===
null?null:s+1;if(s!==null&&o<=s){this.G(n,o===s||o>f?"double":"order",u,o);return}if(l.q=o,o!==u){l.F=o-1,this.I(n,"hole",
u,o);return}}if(n.u||h!==null&&o<=h)return;if(o!==h+1){this.I(n);return}this.f(n,P(n.n,t))}}this.A(t),this.s.has(a)&&this.v(
"event",t)}pt(t,e=[]){let{type:i,payload:a}=t,r=n=>{let l=this.o?.get(n.id);return l&&l.seq>n.seq?l:n};if(i==="list"){for(let n of a.
data)e.push(n);a.more||(this.o=new Map(e.map(n=>[n.id,r(n)])),e.length=0,this.A({kind:"list",type:i,payload:{data:[...this.o.
values()],more:!1}}))}else i==="removed"?this.o?.delete(a.id):this.o?.set(a.id,r(a)),this.A(t);this.R=void 0,this.k(),this.l.
list&&this.v("event",t)}f(t,e){t.n={...t.n,...e},this.s.has(t.n.id)&&(this.b=void 0,this.k())}I(t,e,i=null,a=null){e&&this.G(
t,e,i,a),t.u=!0,this.f(t,{part:"waiting"}),this.it()}G(t,e,i,a){let r=t&&t.n.id,n={kind:e,topology_id:r,expected:i,got:a};
t&&this.f(t,{broken:n}),(!t||this.s.has(t.n.id))&&this.v("violation",n)}d(t){t.state===this.r.state&&!("reason"in t)||(this.r=
t,this.k(),this.v("connection",t),this.L())}k(){this.D=void 0,this.O=!0}L(){if(this.O){this.O=!1;for(let t of[...this.M])
M(t)}}v(t,e){for(let i of[...this.z[t]])M(i,e)}};function M(d,t){try{d(t)}catch(e){queueMicrotask(()=>{throw e})}}function K(d){
return d?Math.max(0,(+d>=0?+d*g:Date.parse(d)-Date.now())||0):0}export{w as RefusedError,E as TopologyStream,_ as applyGraph};
