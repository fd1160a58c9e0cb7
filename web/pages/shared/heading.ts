import { useDocumentTitle } from '@mantine/hooks';
import { useEffect, useRef, type RefObject } from 'react';

/** The address of the first page, or of the page to which the user went back: the browser restores its place. */
let restored: string | undefined = location.href;
addEventListener('popstate', () => (restored = location.href));

/** Like a new document, a page has a title, and its heading gets the focus for those who use a screen reader. */
export function useHeading(title: string, site: string): RefObject<HTMLHeadingElement | null> {
  const ref = useRef<HTMLHeadingElement>(null);
  useDocumentTitle(`${title} · ${site}`);
  useEffect(() => {
    // After a refused order, a field has the focus already.
    if (restored !== location.href && !ref.current?.closest('main')?.contains(document.activeElement)) {
      ref.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    restored = undefined;
  }, []);
  return ref;
}
