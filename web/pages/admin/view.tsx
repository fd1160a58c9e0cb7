import { Anchor, Title } from '@mantine/core';
import { IconChevronLeft } from '@tabler/icons-react';
import type { ReactNode } from 'react';
import { Link } from 'wouter';
import { useHeading } from '../shared/heading';
import classes from './admin.module.css';

/** A page of the back office. `back` leads to the list that contains it, `actions` are its main buttons. */
export function View({ title, heading = title, back, actions, children }: {
  title: string;
  heading?: ReactNode;
  back?: { href: string; label: string };
  actions?: ReactNode;
  children: ReactNode;
}) {
  const ref = useHeading(title, 'Back office');
  return (
    <>
      <div className={classes.head}>
        <div className={classes.titles}>
          {back && (
            <Anchor component={Link} href={back.href} size="sm" className={classes.back}>
              <IconChevronLeft size={16} aria-hidden /> {back.label}
            </Anchor>
          )}
          <Title order={1} ref={ref} tabIndex={-1} className={classes.heading}>{heading}</Title>
        </div>
        {actions && <div className={classes.actions}>{actions}</div>}
      </div>
      {children}
    </>
  );
}
