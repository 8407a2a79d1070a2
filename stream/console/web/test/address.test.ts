import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  formatAddress, formatSubnet, nextAddress, nextSubnet, parseAddress, parseSubnet,
} from '../src/edit/address.ts';

test('an address is written as it is read', () => {
  for (const text of ['10.0.0.2', '255.255.255.255', '::', '::1', 'fd00::1', '2001:db8:0:1:1:1:1:1',
    '2001:db8::1:0:0:1', '1:0:0:2::', 'ff::']) {
    expect(formatAddress(parseAddress(text)!)).toBe(text);
  }
  expect(formatAddress(parseAddress('FD00:0:0:0:0:0:0:A')!)).toBe('fd00::a');
  expect(formatAddress(parseAddress('64:ff9b::10.0.0.1')!)).toBe('64:ff9b::a00:1');
});

test('any address survives being written and read', () => {
  const value = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }), fc.bigInt({ min: 0n, max: 0xffffn }),
    fc.array(fc.constantFrom<bigint>(0n, 0n, 1n, 0xffffn), { minLength: 8, maxLength: 8 })
      .map((groups) => groups.reduce((sum, group) => sum * 65536n + group, 0n)));
  fc.assert(fc.property(value, (v) => parseAddress(formatAddress({ bits: 128, value: v }))?.value === v));
  fc.assert(fc.property(fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }), (v) =>
    parseAddress(formatAddress({ bits: 32, value: v }))?.value === v));
});

test('what is no address is none', () => {
  for (const text of ['', '10.0.0', '10.0.0.256', '010.0.0.1', ':::', '1::2::3', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9',
    'fe80::1%eth0', '1:2:3:4::5:6:7:8', 'g::']) {
    expect(parseAddress(text), text).toBe(null);
  }
  for (const text of ['10.0.0.0', '10.0.0.0/33', '10.0.0.0/x', '10.0.0.0/08']) {
    expect(parseSubnet(text), text).toBe(null);
  }
});

test('the next free address leaves out network, gateway and broadcast', () => {
  const subnet = parseSubnet('10.0.0.0/29')!;
  const taken = new Set<string>();
  for (let i = 2; i < 7; i++) {
    expect(nextAddress(subnet, taken)).toBe(`10.0.0.${i}`);
    taken.add(`10.0.0.${i}`);
  }
  expect(nextAddress(subnet, taken)).toBe(null);
  expect(nextAddress(parseSubnet('10.0.0.0/30')!, new Set())).toBe('10.0.0.2');
});

test('the next free subnet is the lowest /24 that overlaps none', () => {
  expect(nextSubnet([])).toBe('172.16.0.0/24');
  expect(nextSubnet([parseSubnet('172.16.0.0/23')!, parseSubnet('172.16.3.0/30')!])).toBe('172.16.2.0/24');
  expect(nextSubnet([parseSubnet('172.0.0.0/8')!])).toBe(null);
  expect(formatSubnet(parseSubnet('fd00::/64')!)).toBe('fd00::/64');
});
