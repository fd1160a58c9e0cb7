import { Title } from '@mantine/core';
import { useDocumentTitle } from '@mantine/hooks';
import { useEffect, useRef, type ReactNode } from 'react';
import classes from './shop.module.css';

/** Whether the first page is still shown, whose heading must not take the focus. */
let isFirst = true;

/** A page of the shop. Like a new document, it has a title, and its heading gets the focus for those who use a screen reader. */
export function View({ title, heading = title, isWide = false, children }: {
  title: string;
  heading?: ReactNode;
  isWide?: boolean;
  children: ReactNode;
}) {
  const ref = useRef<HTMLHeadingElement>(null);
  useDocumentTitle(`${title} · Shop`);
  useEffect(() => {
    // After a refused order, a field has the focus already.
    if (!isFirst && !ref.current?.parentElement?.contains(document.activeElement)) {
      ref.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    isFirst = false;
  }, []);
  return (
    <main className={classes.main} data-wide={isWide || undefined}>
      <Title order={1} ref={ref} tabIndex={-1} className={classes.heading}>{heading}</Title>
      {children}
    </main>
  );
}
