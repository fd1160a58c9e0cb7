// Amounts as people write them: with the digits and the separators of their locale.
import { placesOf } from '../../shared/format';

/** The characters of a locale's numbers. */
function symbolsOf(locale: string) {
  const parts = new Intl.NumberFormat(locale, { useGrouping: true }).formatToParts(12345678.9);
  const find = (type: string) => parts.find((part) => part.type === type)?.value;
  const digits = [...new Intl.NumberFormat(locale, { useGrouping: false }).format(9876543210)].reverse();
  return { decimal: find('decimal') ?? '.', group: find('group'), digits };
}

/**
 * The amount as the service reads it, for example "1234.50". Undefined if the text is not an amount in this locale: a separator in a
 * place where it could mean something else is refused, because "1.500" is a thousand times as much in German as in English.
 */
export function parseAmount(text: string, locale: string): string | undefined {
  const { decimal, group, digits } = symbolsOf(locale);
  const latin = [...text.replaceAll(/\s/g, '')].map((character) => {
    const digit = digits.indexOf(character);
    return digit < 0 ? character : String(digit);
  }).join('');
  const [whole = '', fraction, ...rest] = latin.split(decimal);
  if (rest.length > 0 || (fraction !== undefined && !/^\d+$/.test(fraction))) return undefined;
  const groups = group?.trim() ? whole.split(group) : [whole];
  const areGrouped = groups.length === 1 || (/^\d{1,3}$/.test(groups[0]!) && /^\d{3}$/.test(groups.at(-1)!) && groups.slice(1, -1).every((each) => /^\d{2,3}$/.test(each)));
  if (!areGrouped || !/^\d+$/.test(groups.join(''))) return undefined;
  return fraction === undefined ? groups.join('') : `${groups.join('')}.${fraction}`;
}

/** The amount for an input, for example "1234,50" in German. */
export const editAmount = (amount: string, locale: string): string => amount.replace('.', symbolsOf(locale).decimal);

/** An amount with the decimal places of `like`, as an example of what to write. */
export const exampleOf = (like: string, locale: string): string => editAmount((1250).toFixed(placesOf(like)), locale);
