import { useDocumentTitle } from '@mantine/hooks';
import { useEffect, useRef, type RefObject } from 'react';

/** Whether the browser shows this page itself: the first one, and those to which the user goes back. It restores their place. */
let isRestored = true;
addEventListener('popstate', () => (isRestored = true));

/** Like a new document, a page has a title, and its heading gets the focus for those who use a screen reader. */
export function useHeading(title: string, site: string): RefObject<HTMLHeadingElement | null> {
  const ref = useRef<HTMLHeadingElement>(null);
  useDocumentTitle(`${title} · ${site}`);
  useEffect(() => {
    // After a refused order, a field has the focus already.
    if (!isRestored && !ref.current?.closest('main')?.contains(document.activeElement)) {
      ref.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    isRestored = false;
  }, []);
  return ref;
}
