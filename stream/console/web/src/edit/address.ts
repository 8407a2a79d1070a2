// Addresses and subnets as the server reckons them: pgbus/graph/address.go and stream/object.go.

/** An address as a number, and how many bits it has. */
export interface Address {
  readonly bits: 32 | 128;
  readonly value: bigint;
}

/** A network: its first address, and how many bits of it are the network's. */
export interface Subnet {
  readonly address: Address;
  readonly length: number;
}

/** Reads an IPv4 or IPv6 address without a zone; null if it is none. */
export function parseAddress(text: string): Address | null {
  if (!text.includes(':')) {
    const parts = text.split('.');
    const isByte = (part: string): boolean => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256;
    if (parts.length !== 4 || !parts.every(isByte)) return null;
    return { bits: 32, value: parts.reduce((sum, part) => sum * 256n + BigInt(part), 0n) };
  }
  // The last 32 bits may be written as IPv4 (RFC 4291, 2.2).
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (dotted) {
    const v4 = parseAddress(dotted[2]!);
    if (!v4) return null;
    text = `${dotted[1]}${(v4.value >> 16n).toString(16)}:${(v4.value & 0xffffn).toString(16)}`;
  }
  const halves = text.split('::');
  if (halves.length > 2) return null;
  const [head = [], tail = []] = halves.map((half) => half === '' ? [] : half.split(':'));
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  const groups = [...head, ...Array<string>(missing).fill('0'), ...tail];
  if (!groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return null;
  return { bits: 128, value: groups.reduce((sum, group) => sum * 65536n + BigInt('0x' + group), 0n) };
}

/** Writes an address as PostgreSQL and Go do (RFC 5952). */
export function formatAddress({ bits, value }: Address): string {
  const size = bits === 32 ? 8n : 16n;
  const count = bits === 32 ? 4 : 8;
  const mask = (1n << size) - 1n;
  const parts = Array.from({ length: count }, (_, i) => (value >> (size * BigInt(count - 1 - i))) & mask);
  if (bits === 32) return parts.join('.');
  const text = parts.map((part) => part.toString(16)).join(':');
  let longest = '';
  for (const [run] of text.matchAll(/(?<![0-9a-f])0(:0)+(?![0-9a-f])/g)) if (run.length > longest.length) longest = run;
  if (!longest) return text;
  const at = text.search(new RegExp(`(?<![0-9a-f])${longest}(?![0-9a-f])`));
  return `${text.slice(0, at).replace(/:$/, '')}::${text.slice(at + longest.length).replace(/^:/, '')}`;
}

/** Reads `address/length`; host bits may be set. Null if it is none. */
export function parseSubnet(text: string): Subnet | null {
  const match = /^([^/]+)\/(0|[1-9]\d{0,2})$/.exec(text);
  const address = match && parseAddress(match[1]!);
  const length = Number(match?.[2]);
  return address && length <= address.bits ? { address, length } : null;
}

export const formatSubnet = (subnet: Subnet): string => `${formatAddress(subnet.address)}/${subnet.length}`;

/** The network without host bits. */
export function masked({ address: { bits, value }, length }: Subnet): Subnet {
  const host = BigInt(bits - length);
  return { address: { bits, value: (value >> host) << host }, length };
}

export function overlaps(a: Subnet, b: Subnet): boolean {
  if (a.address.bits !== b.address.bits) return false;
  const host = BigInt(a.address.bits - Math.min(a.length, b.length));
  return a.address.value >> host === b.address.value >> host;
}

export const contains = (subnet: Subnet, address: Address): boolean =>
  overlaps(subnet, { address, length: address.bits });

/** The gateway's address, which no decky can have: the first host's. */
export const gatewayOf = (subnet: Subnet): Address => {
  const { address: { bits, value } } = masked(subnet);
  return { bits, value: value + 1n };
};

/** Whether a host can have this address: not the network's own and, in IPv4, not the broadcast address (RFC 919). */
export function isHost(subnet: Subnet, address: Address): boolean {
  if (!contains(subnet, address) || address.value === masked(subnet).address.value) return false;
  return address.bits === 128 || contains(subnet, { bits: 32, value: address.value + 1n });
}

/** The lowest address that is free for a decky; null where none is. */
export function nextAddress(subnet: Subnet, taken: ReadonlySet<string>): string | null {
  const { bits, value } = gatewayOf(subnet);
  for (let next = value + 1n; isHost(subnet, { bits, value: next }); next++) {
    const text = formatAddress({ bits, value: next });
    if (!taken.has(text)) return text;
  }
  return null;
}

/** The lowest /24 of 172.16.0.0/12 that overlaps none of the taken; null where none is left. */
export function nextSubnet(taken: readonly Subnet[]): string | null {
  const base = (172n << 24n) + (16n << 16n);
  for (let i = 0n; i < 4096n; i++) {
    const next: Subnet = { address: { bits: 32, value: base + (i << 8n) }, length: 24 };
    if (!taken.some((other) => overlaps(next, other))) return formatSubnet(next);
  }
  return null;
}
