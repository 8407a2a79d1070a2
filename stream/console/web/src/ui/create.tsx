// The dialog that makes a topology: a name, and what it begins with.
import { useState } from 'preact/hooks';
import { createTopology } from '../state/psql.ts';
import type { NewTopology } from '../state/steps.ts';
import { useApp } from './context.ts';
import { Buttons, Dialog, Refusal } from './stepdialog.tsx';
import { PsqlLine } from './inject.tsx';

/** What is in the form; an empty subnet is the next that is free. */
interface Form {
  name: string;
  starter: 'dmz' | 'empty';
  dmz: string;
  dmzSubnet: string;
  gateway: string;
  lan: string;
  lanSubnet: string;
  decky: string;
}

const beginning: Form = {
  name: '', starter: 'dmz', dmz: 'dmz', dmzSubnet: '', gateway: 'gateway-1', lan: 'lan-1', lanSubnet: '',
  decky: 'web-1',
};

/** Which field of the form each part of the request comes from: the server names what is wrong as `lans[0].subnet`. */
const fields: readonly (readonly [RegExp, keyof Form])[] = [
  [/^name\b/, 'name'], [/^lans\[0\]\.name\b/, 'dmz'], [/^lans\[0\].*(subnet|network|address)/, 'dmzSubnet'],
  [/^lans\[0\]/, 'dmz'], [/^lans\[1\]\.name\b/, 'lan'], [/^lans\[1\].*(subnet|network|address)/, 'lanSubnet'],
  [/^lans\[1\]/, 'lan'], [/^deckies\[0\]/, 'gateway'], [/^deckies\[1\]/, 'decky'],
];

function requestOf(form: Form): NewTopology {
  const name = form.name;
  if (form.starter === 'empty') return { name };
  const subnet = (text: string) => (text.trim() ? { subnet: text.trim() } : {});
  return {
    name,
    lans: [
      { name: form.dmz, is_dmz: true, ...subnet(form.dmzSubnet), x: 0, y: 0 },
      { name: form.lan, ...subnet(form.lanSubnet), x: 0, y: 280 },
    ],
    deckies: [
      { name: form.gateway, lan: form.dmz, archetype: 'gateway', forwards_l3: true, services: ['ssh'] },
      { name: form.decky, lan: form.lan, services: ['ssh', 'http'] },
    ],
  };
}

/** The field that a refusal is about; null if it is about none of them. */
function fieldOf(status: number, detail: string): keyof Form | null {
  if (status === 409) return 'name'; // there is one of this name already
  return fields.find(([pattern]) => pattern.test(detail))?.[1] ?? null;
}

export function Create() {
  const { steps } = useApp();
  const [form, setForm] = useState(beginning);
  const problem = steps.problem.value;
  const wrong = problem && fieldOf(problem.status, problem.message);
  const submit = (event: Event): void => {
    event.preventDefault();
    void steps.create(requestOf(form));
  };
  const field = (key: keyof Form, label: string, placeholder = '') => (
    <label class="field">
      <span>{label}</span>
      <input
        name={key} value={form[key]} placeholder={placeholder} autoComplete="off" spellcheck={false}
        required={placeholder === ''} aria-invalid={wrong === key}
        aria-describedby={wrong === key ? 'wrong' : undefined}
        onInput={(e) => setForm({ ...form, [key]: e.currentTarget.value })}
      />
      {wrong === key && <span class="refusal" id="wrong" role="alert">{problem!.message}</span>}
    </label>
  );
  const starter = (key: Form['starter'], title: string, says: string) => (
    <label class="choice">
      <input type="radio" name="starter" value={key} checked={form.starter === key}
        onChange={() => setForm({ ...form, starter: key })} />
      <span>{title}<small>{says}</small></span>
    </label>
  );
  return (
    <Dialog title="New topology">
      <form onSubmit={submit}>
        {field('name', 'Name')}
        <fieldset>
          <legend>It begins with</legend>
          {starter('dmz', 'A DMZ with a gateway, and one LAN', 'Change anything below, or later.')}
          {starter('empty', 'Nothing', 'Draw it yourself once it is active.')}
        </fieldset>
        {form.starter === 'dmz' && (
          <div class="pairs">
            {field('dmz', 'DMZ')}{field('dmzSubnet', 'Its subnet', 'the next free /24')}
            {field('gateway', 'Gateway in it')}<span />
            {field('lan', 'LAN')}{field('lanSubnet', 'Its subnet', 'the next free /24')}
            {field('decky', 'Decky in it')}<span />
          </div>
        )}
        <Refusal shown={wrong !== null} />
        <Buttons go="Create" />
        {form.starter === 'empty' && form.name && <PsqlLine line={createTopology(form.name)} />}
      </form>
    </Dialog>
  );
}
