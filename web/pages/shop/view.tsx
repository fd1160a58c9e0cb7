import { Title } from '@mantine/core';
import type { ReactNode } from 'react';
import { useHeading } from '../shared/heading';
import classes from './shop.module.css';

/** A page of the shop. */
export function View({ title, heading = title, isWide = false, children }: {
  title: string;
  heading?: ReactNode;
  isWide?: boolean;
  children: ReactNode;
}) {
  const ref = useHeading(title, 'Shop');
  return (
    <main className={classes.main} data-wide={isWide || undefined}>
      <Title order={1} ref={ref} tabIndex={-1} className={classes.heading}>{heading}</Title>
      {children}
    </main>
  );
}
