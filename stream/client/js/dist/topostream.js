// topostream, Apache-2.0. Built from stream/client/js/src by build.mjs: change that, not this.
var w=globalThis,x=()=>({now:()=>performance.now(),setTimeout:(r,t)=>setTimeout(r,t),clearTimeout:r=>clearTimeout(r),random:()=>Math.
random(),fetch:(...r)=>fetch(...r),locks:w.navigator?.locks,channel:w.BroadcastChannel&&(r=>new BroadcastChannel(r)),listen:(r,t)=>w.
addEventListener?.(r,t),unlisten:(r,t)=>w.removeEventListener?.(r,t)});var L=["lans","deckies","edges"],v=r=>r.id??r.uuid;function S(r,t,e=!1){let n=new Set;for(let s of L){if(!e)continue;let o=new Set(
(t.before?.[s]??[]).map(l=>v(l)));for(let l of t[s]??[]){let d=v(l);o.has(d)||n.add(d)}}if(!e)for(let{id:s}of t.removed??
[])n.add(s);let i={};for(let s of L){let o=r[s],l=(e?t.before?.[s]:t[s])??[],d=new Map(l.map(u=>[v(u),u])),h=!1,a=[];for(let u of o){
let f=d.get(v(u));d.delete(v(u)),f?a.push(e||t.truncated?{...u,...f}:f):!n.has(v(u))&&!n.has(u.lan_id)&&!n.has(u.decky_uuid)&&
a.push(u),h||=a.at(-1)!==u}i[s]=h||d.size?[...a,...d.values()]:o}return i}function k(r){return{id:r,part:"waiting",problem:null,seq:null,status:null,reason:null,version:null,in_flight:[],in_flight_total:0,
graph:null,graph_pending:[],broken:null}}function P(r,t){let{lans:e,deckies:n,edges:i}=t;return{...r,part:"live",problem:null,
seq:t.seq,status:t.status,reason:t.reason,version:t.version,in_flight:t.in_flight,in_flight_total:t.in_flight_total,graph:e&&
n&&i?{lans:e,deckies:n,edges:i}:null,graph_pending:t.graph_pending??[]}}function q(r,t){let{type:e,seq:n,ts:i}=t,s=t.payload??
{},o=s.mutation_id??"",l=()=>r.in_flight.filter(u=>u.id!==o),d=r.in_flight.find(u=>u.id===o),h=u=>d?{...d,state:u}:{id:o,
topology_id:r.id,op:s.op??"",payload:s.payload??null,state:u},a={...r,seq:n,part:"live",problem:null};switch(e){case"mut\
ation.enqueued":return{...a,in_flight_total:r.in_flight_total+1,in_flight:r.in_flight.length<r.in_flight_total?r.in_flight:
[...r.in_flight,{...h("pending"),requested_at:i}]};case"mutation.applying":case"mutation.requeued":return{...a,in_flight:d||
e==="mutation.applying"?[h(e==="mutation.applying"?"applying":"pending"),...l()]:r.in_flight};case"mutation.applied":case"\
mutation.failed":{let u=Math.max(0,r.in_flight_total-1),f={...a,version:s.version??r.version,in_flight:l(),in_flight_total:u};
return e==="mutation.applied"&&s.result?C(f,s.result):f}case"graph":return C(a,t.payload);case"status":return{...a,status:s.
state??r.status,reason:s.reason??null};case"deleted":return{...a,part:"deleted"};default:return a}}function C(r,t){if(!r.
graph)return r;let e=[...r.graph_pending,t];return t.more?{...r,graph_pending:e}:{...r,graph:e.reduce((n,i)=>S(n,i),r.graph),
graph_pending:[]}}function E(r,t){let e=new TextDecoder,n="",i=!1,s="",o=null,l=null;function d(h){if(!h){o!==null&&r({event:s||"message",
data:o,id:l}),s="",o=l=null;return}let a=h.indexOf(":"),u=a<0?h:h.slice(0,a),f=a<0?"":h.slice(a+(h[a+1]===" "?2:1));u===
"data"?o=o===null?f:`${o}
${f}`:u==="event"?s=f:u==="id"&&!f.includes("\0")?l=f:u==="retry"&&/^\d+$/.test(f)&&t(+f)}return h=>{let a=e.decode(h,{stream:!0});
if(!a)return;i&&a[0]===`
`&&(a=a.slice(1)),i=a.endsWith("\r");let u=/\r\n?|\n/g,f=0;for(let y;y=u.exec(a);f=u.lastIndex){let _=n+a.slice(f,y.index);
n="",d(_)}n+=a.slice(f)}}var T=class extends Error{constructor(e,n){super(n);this.status=e}status;name="RefusedError"},p=1e3,O=30*p,K=5*p,M=class{e;o=new Set;r=new Map;t=null;i=null;O=!0;a={
state:"idle"};l=null;v=!1;#t;#g;#m={event:new Set,connection:new Set,violation:new Set};#d=new Set;#v=null;#n=null;#r=null;#f=!1;#a=2*
p;#c=0;#i;#o;#l=!1;#h;constructor(t={}){this.#t=t,this.e={...x(),...t.host};let e=(t.url??"").replace(/\/+$/,"");this.#g=
e.endsWith("/events")?e:`${e}/api/v1/events`;for(let n of t.topologies??[])this.add(n);t.signal?.addEventListener("abort",
this.close),t.signal?.aborted&&this.close(),t.onEvent&&this.on("event",t.onEvent),t.onConnection&&this.on("connection",t.
onConnection),t.onViolation&&this.on("violation",t.onViolation)}get topologies(){return[...this.o]}add(t){t=t.toLowerCase(),
!this.o.has(t)&&(this.o.add(t),this.y(t),this.#n=null,this.b(),this.w())}remove(t){t=t.toLowerCase(),this.o.delete(t)&&(this.K(
t),this.#n=null,this.b(),this.w())}open(){this.v||this.a.state==="closed"||(this.v=!0,this.e.listen("online",this.#y),this.$())}reconnect(){
this.a.state!=="closed"&&(this.#l=!1,this.v?this.q():this.open())}close=()=>{this.a.state!=="closed"&&(this.#t.signal?.removeEventListener(
"abort",this.close),this.e.unlisten("online",this.#y),this.W(),this.d({state:"closed"}))};on(t,e){let n=this.#m[t];return n.
add(e),this.open(),()=>{n.delete(e)}}subscribe=t=>(this.#d.add(t),this.open(),()=>{this.#d.delete(t)});getSnapshot=()=>{
if(!this.#n){this.#n={};for(let t of this.o)this.#n[t]=this.y(t).n}return!this.#r&&this.l&&this.#t.list&&(this.#r=[...this.l.
values()]),this.#v??={connection:this.a,topologies:this.#n,list:this.#r}};async*[Symbol.asyncIterator](){let t=[],e=()=>{},
n=[this.on("event",i=>{t.push(i),e()}),this.on("connection",()=>e())];try{for(;;){let i=t;if(t=[],yield*i,t.length)continue;
let s=this.a;if(s.state==="closed"||s.state==="ended")return;if(s.state==="refused")throw new T(s.status,s.reason);await new Promise(
o=>{e=o})}}finally{for(let i of n)i()}}$(){this.w()}q(){this.t||this.g()}W(){for(let t of[this.t,this.i])t?.u.abort();this.t=
this.i=null,this.e.clearTimeout(this.#i),this.e.clearTimeout(this.#o),this.#i=this.#o=void 0;for(let t of this.r.values())
this.e.clearTimeout(t.f)}N(){return{ids:[...this.o],graph:!!this.#t.graph,list:!!this.#t.list}}c(t,e){}V(t){}K(t){this.e.
clearTimeout(this.r.get(t)?.f),this.r.delete(t)}y(t){let e=this.r.get(t);return e||(e={n:k(t),M:!1,p:!1,G:0,f:void 0},this.r.
set(t,e)),e}#u(){let t=this.N(),e=t.ids.filter(n=>!["deleted","refused"].includes(this.y(n).n.part)).sort();return{...t,
ids:e,key:JSON.stringify([e,t.graph,t.list])}}w(){!this.v||this.#o!==void 0||(this.#o=this.e.setTimeout(()=>{if(this.#o=
void 0,this.i||this.a.state==="refused")return;let{t}=this;(t?t.R||t.j!==this.#u().key:this.#i===void 0)&&this.g()},0))}#y=()=>{
this.a.state==="waiting"&&this.q()};g=()=>{if(this.e.clearTimeout(this.#i),this.#i=void 0,!this.v||!this.O||this.i||this.a.
state==="closed")return;let{ids:t,key:e,graph:n,list:i}=this.#u();if(!t.length&&!i){this.t?.u.abort(),this.t=null,this.d(
{state:this.o.size?"ended":"idle"});return}let s=$(e);for(let l of t){let d=this.y(l),{seq:h,graph:a}=d.n;d.p||=h!==null&&
n&&!a,s.h.set(l,d.p?null:h),h!==null&&s.x.set(l,h)}this.i=s,this.t||this.d({state:"connecting"});let o=Object.fromEntries(
s.h);this.#S(s,JSON.stringify({topologies:o,...n&&{graph:n},...i&&{list:i}}))};async#S(t,e){let{getToken:n,credentials:i,
keepalive:s=15*p}=this.#t,o=this.e,{signal:l}=t.u,d=3*s,h=0,a=0,u=!1,f,y=()=>{let c=t.L+d-o.now();u=c<=0,u?t.u.abort():f=
o.setTimeout(y,c)},_=o.setTimeout(()=>{t!==this.i||!this.t||(this.t.u.abort(),this.t=null,this.d({state:"connecting"}))},
K);t.L=o.now(),y();try{t._=await N(n?.(this.#h),l)??void 0;let c={"Content-Type":"application/json"};t._&&(c.Authorization=
`Bearer ${t._}`);let g=await o.fetch(this.#g,{method:"POST",headers:c,body:e,signal:l,cache:"no-store",...i&&{credentials:i}});
t.L=o.now(),h=g.status;let R=g.headers.get("Content-Type")?.startsWith("text/event-stream");if(h===200&&R&&g.body){this.#E(
t);let b=E(m=>this.#T(t,m),m=>{this.#a=m}),A=g.body.getReader();for(let m;!(m=await A.read()).done&&!l.aborted;)t.L=o.now(),
b(m.value),this.C();t.s||="the stream has ended"}else{a=W(g.headers.get("Retry-After")),t.s=`HTTP ${h}`;let b=await g.json().
catch(()=>({}));t.s=b?.detail??b?.title??t.s}}catch(c){l.aborted&&u?t.s=`nothing came for ${d/p} s`:t.s||=String(c?.message??
c)}o.clearTimeout(f),o.clearTimeout(_),(t===this.t||t===this.i)&&this.#b(t,h,a),t.u.abort()}#E(t){if(t===this.i){this.t?.u.
abort(),this.t=t,this.i=null,t.k=this.e.now(),this.#l=!1,this.#h=void 0;for(let e of t.h.keys()){let n=this.r.get(e);n&&
(n.M=!0,this.e.clearTimeout(n.f),n.f=void 0,n.n.part==="unavailable"&&this.#e(n,{...n.n,part:"waiting",problem:null}))}this.d(
{state:"open"}),this.w()}}#b(t,e,n){let i=t===this.i;if(i?this.i=null:this.t=null,t.P&&(this.#h=t._),i&&e===401&&this.#t.
getToken&&!this.#l){this.#l=!0,this.#h=t._,this.g();return}if(i&&e>=400&&e<500&&![408,425,429].includes(e)){let d=[...t.h.
keys()].filter(h=>!this.r.get(h)?.M);if(e===403&&d.length&&d.length<t.h.size){for(let h of d){let a=this.y(h);this.#e(a,
{...a.n,part:"refused",problem:t.s})}this.C(),this.g();return}if(!this.t){this.d({state:"refused",status:e,reason:t.s});
return}}if(this.i){this.d({state:"connecting"});return}if(!i&&!this.#u().ids.length&&!this.#u().list){this.g();return}let s=t.k!==
null&&this.e.now()-t.k>15*p;this.#c=t.m||s?0:this.#c+1;let o=t.P&&t.m?0:this.#w(this.#c),l=Math.max(o,n);this.t||this.d(
{state:"waiting",reason:t.s,retry_in:l}),this.#i=this.e.setTimeout(this.g,l)}#w(t){if(!t)return this.#a;let e=Math.max(O,
this.#a);return Math.min(e,this.#a*2**(t-1))*(.75+this.e.random()/2)}#T(t,e){if(t.u.signal.aborted)return;let n;try{n=JSON.
parse(e.data),this.H(t,e.event,n,e.id)}catch(i){if(!(i instanceof SyntaxError||i instanceof TypeError))throw i;this.A("m\
alformed",null,null,null),t.s=`malformed: ${i.message}`,t.m=!1,this.#x(t)}}#x(t){t.u.abort(),t===this.t&&this.#b(t,0,0)}H(t,e,n,i){
switch(e){case"list":case"topology":case"removed":t.m=!0,this.#q(t,e,n);return;case"token_expired":t.P=!0,t.s="the token\
 has expired",this.S("event",{kind:"notice",type:e,topology_id:null,payload:n.payload??{}});return;case"unavailable":this.#L(
t,n);return;case"snapshot":t.m=!0,this.#C(t,n,n);return;default:t.m=!0,this.#k(t,e,n,i)}}#L(t,e){let n=e.payload,i=n.topology_id?.
toLowerCase(),s=i===void 0?void 0:this.r.get(i);i===void 0&&(t.s=n.reason??"unavailable"),!(i!==void 0&&!s)&&(s&&(this.#e(
s,{...s.n,part:"unavailable",problem:n.reason??null}),t.E||this.#_(s),this.c("unavailable",e)),this.T(i,{kind:"notice",type:"\
unavailable",topology_id:i??null,payload:n}))}#_(t){this.e.clearTimeout(t.f),t.f=this.e.setTimeout(()=>{t.f=void 0,this.t&&
(this.t.R=!0),this.w()},this.#w(t.G++))}#C(t,e,n){let i=this.r.get(e.topology_id);if(!i)return;if(!Number.isSafeInteger(
e.seq)){this.#s(i,"malformed",null,null);return}let{seq:s}=i.n,o=t.h.get(e.topology_id)??null,l=t.E?null:o??(i.p?s:null);
if(t.h.set(e.topology_id,e.seq),t.x.set(e.topology_id,e.seq),l!==null&&e.seq<l)this.#s(i,"back",l,e.seq);else if(!i.p&&s!==
null&&e.seq<s)return;i.p=!1,this.#e(i,P(i.n,e)),this.c("snapshot",n),this.T(e.topology_id,{kind:"snapshot",type:"snapsho\
t",topology_id:e.topology_id,seq:e.seq,payload:e})}#k(t,e,n,i){let s=/^topology\.([^.]+)/.exec(n.topic??"")?.[1]??n.payload?.
topology_id??"",o=this.r.get(s);if(!o)return;let{seq:l=null,ts:d="",payload:h=null}=n;if(!n.journaled){this.c(e,n),e==="\
deleted"?(this.#e(o,{...o.n,part:"deleted"}),this.T(s,{kind:"notice",type:e,topology_id:s,payload:{}})):this.T(s,{kind:"\
raw",type:e,topology_id:s,ts:d,payload:h});return}let a=o.n.seq;if(l===null||!Number.isSafeInteger(l)||i!==null&&i!==String(
l)){this.#s(o,"malformed",a===null?null:a+1,l),this.#p(t,o);return}if(!(!t.E&&!this.#P(t,o,s,l))&&!(o.p||a!==null&&l<=a)){
if(a===null||l>a+1){t.E||(this.#s(o,"hole",a===null?null:a+1,l),this.#p(t,o)),this.V(s);return}o.G=0,this.#e(o,q(o.n,{type:e,
seq:l,ts:d,payload:h})),this.c(e,n),this.T(s,{kind:"event",type:e,topology_id:s,seq:l,ts:d,payload:h})}}#P(t,e,n,i){let s=t.h.
get(n)??null;return s!==null&&i===s+1?(t.h.set(n,i),!0):s!==null&&i<=s?(this.#s(e,i>(t.x.get(n)??s)||i===s?"double":"ord\
er",s+1,i),!1):(t.h.set(n,i),t.x.set(n,i-1),this.#s(e,"hole",s===null?null:s+1,i),this.#p(t,e),!1)}#p(t,e){t.E||(e.p=!0,
this.#e(e,{...e.n,part:"waiting"}),e.f===void 0&&this.#_(e))}#q(t,e,n){let i=this.l??=new Map;if(e==="list")if(t.l.push(
...n.data??[]),n.more)i.size||(this.l=null);else{let s=o=>{let l=i.get(o.id);return l&&l.seq>o.seq?l:o};this.l=new Map(t.l.
map(o=>[o.id,s(o)])),t.l=[],this.c("list",{data:[...this.l.values()],more:!1})}else if(e==="topology"){let s=n,o=i.get(s.
id);if(o&&o.seq>s.seq)return;i.set(s.id,s),this.c(e,n)}else i.delete(n.id),this.c(e,n);this.#r=null,this.b(),this.#t.list&&
this.S("event",{kind:"list",type:e,payload:n})}#e(t,e){t.n=e,this.o.has(e.id)&&(this.#n=null,this.b())}#s(t,e,n,i){let{id:s}=t.n;
this.A(e,s,n,i),this.#e(t,{...t.n,broken:{kind:e,topology_id:s,expected:n,got:i}})}A(t,e,n,i){(e===null||this.o.has(e))&&
this.S("violation",{kind:t,topology_id:e,expected:n,got:i})}d(t){t.state===this.a.state&&!("reason"in t)||(this.a=t,this.b(),
this.S("connection",t),this.C())}b(){this.#v=null,this.#f=!0}C(){if(this.#f){this.#f=!1;for(let t of[...this.#d])G(t,void 0)}}T(t,e){
(t===void 0||this.o.has(t))&&this.S("event",e)}S(t,e){for(let n of[...this.#m[t]])G(n,e)}};function $(r){return{u:new AbortController,
j:r,R:!1,h:new Map,x:new Map,l:[],_:void 0,m:!1,P:!1,s:"",k:null,L:0,E:!1}}function G(r,t){try{r(t)}catch(e){queueMicrotask(
()=>{throw e})}}function W(r){return r?Math.max(0,(/^\d+$/.test(r)?+r*p:Date.parse(r)-Date.now())||0):0}function N(r,t){
return Promise.race([r,new Promise((e,n)=>{let i=()=>n(new Error("aborted"));t.aborted?i():t.addEventListener("abort",i,
{once:!0})})])}export{T as RefusedError,M as TopologyStream,S as applyGraph,$ as newLink,E as parser};
