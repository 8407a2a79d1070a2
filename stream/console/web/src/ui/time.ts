// Times as one reads them, in the time zone of whoever looks.
const isToday = (at: Date): boolean => at.toDateString() === new Date().toDateString();
const digits = (n: number, count = 2): string => String(n).padStart(count, '0');

/** "14:03:22". */
export const timeOfDay = (at: Date): string =>
  [at.getHours(), at.getMinutes(), at.getSeconds()].map((n) => digits(n)).join(':');

/** A time of today as 14:03:22, another with its day. */
export function clock(time: string): string {
  const at = new Date(time);
  return isToday(at) ? timeOfDay(at) : `${at.toLocaleDateString('en-CA')} ${timeOfDay(at)}`;
}

/** A time of today to the millisecond, another to the second with its month and day, which has about the same width. */
export function rowTime(time: string): string {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return '';
  return isToday(at) ? `${timeOfDay(at)}.${digits(at.getMilliseconds(), 3)}`
    : `${digits(at.getMonth() + 1)}-${digits(at.getDate())} ${timeOfDay(at)}`;
}
