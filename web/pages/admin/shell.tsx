// What surrounds each page: the navigation, who is signed in, and the notice of a lost connection.
import { Avatar, Burger, Button, Drawer, Text } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import {
  IconBuildingStore, IconChartBar, IconExternalLink, IconHeartRateMonitor, IconLogout, IconPackage, IconReceipt, IconUsers,
} from '@tabler/icons-react';
import { useEffect, type ReactNode } from 'react';
import { Link, useLocation } from 'wouter';
import { ColorSchemeToggle, ConnectionNotice } from '../shared/controls';
import { useSession, useSessions } from '../shared/session';
import classes from './admin.module.css';

/** The pages, each with the scope that it needs. */
const PAGES = [
  { href: '/', label: 'Overview', Icon: IconChartBar, scope: 'sales:read' },
  { href: '/orders', label: 'Orders', Icon: IconReceipt, scope: 'orders:read' },
  { href: '/clients', label: 'Clients', Icon: IconUsers, scope: 'clients:read' },
  { href: '/products', label: 'Products', Icon: IconPackage, scope: 'products:read' },
  { href: '/system', label: 'System', Icon: IconHeartRateMonitor, scope: 'system:read' },
];

export function Shell({ children }: { children: ReactNode }) {
  const [isOpen, { toggle, close }] = useDisclosure();
  const [location] = useLocation();
  useEffect(close, [location]);
  return (
    <div className={classes.shell}>
      <header className={classes.header}>
        <Burger opened={isOpen} onClick={toggle} size="sm" aria-label="Navigation" aria-expanded={isOpen} className={classes.burger} />
        <Brand />
      </header>
      <aside className={classes.side} aria-label="Back office">
        <div>
          <Brand />
          <Navigation />
        </div>
        <Account />
      </aside>
      <Drawer.Root opened={isOpen} onClose={close} size={280}>
        <Drawer.Overlay />
        <Drawer.Content>
          <Drawer.Body className={classes.drawer}>
            <div className={classes.drawerHead}>
              <Drawer.Title fw={700}>Back office</Drawer.Title>
              <Drawer.CloseButton aria-label="Close" />
            </div>
            <Navigation />
            <Account />
          </Drawer.Body>
        </Drawer.Content>
      </Drawer.Root>
      <main className={classes.main}>
        <ConnectionNotice />
        {children}
      </main>
    </div>
  );
}

const Brand = () => (
  <Link href="/" className={classes.brand}><IconBuildingStore aria-hidden /> <span>Back office</span></Link>
);

function Navigation() {
  const session = useSession();
  const [location] = useLocation();
  const isCurrent = (href: string) => (href === '/' ? location === '/' : location === href || location.startsWith(`${href}/`));
  return (
    <nav aria-label="Pages" className={classes.nav}>
      {PAGES.filter(({ scope }) => session.may(scope)).map(({ href, label, Icon }) => (
        <Link key={href} href={href} aria-current={isCurrent(href) ? 'page' : undefined}><Icon size={20} aria-hidden /> {label}</Link>
      ))}
      <a href="/shop" target="_blank" className={classes.external}><IconExternalLink size={20} aria-hidden /> Shop</a>
    </nav>
  );
}

function Account() {
  const { subject } = useSession();
  const { signOut } = useSessions();
  return (
    <div className={classes.account}>
      <Avatar name={subject} color="blue" size={34} aria-hidden />
      <div className={classes.accountText}>
        <Text size="xs" c="dimmed">Signed in as</Text>
        <Text size="sm" fw={500} className={classes.accountName} title={subject}>{subject}</Text>
      </div>
      <div className={classes.tools}>
        <Button variant="default" leftSection={<IconLogout size={16} aria-hidden />} onClick={signOut}>Sign out</Button>
        <ColorSchemeToggle />
      </div>
    </div>
  );
}
