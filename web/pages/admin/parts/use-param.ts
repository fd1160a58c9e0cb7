import { useSearchParams } from 'wouter';

/** A filter in the address. Empty if it is not set. */
export function useParam(name: string): [value: string, set: (value: string) => void] {
  const [params, setParams] = useSearchParams();
  const set = (value: string) => setParams((before) => {
    const others = [...before].filter(([other]) => other !== name);
    return value ? [...others, [name, value]] : others;
  }, { replace: true });
  return [params.get(name) ?? '', set];
}
