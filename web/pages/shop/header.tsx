import { Avatar, Badge, Button, Popover, Skeleton, Text, UnstyledButton, VisuallyHidden } from '@mantine/core';
import { IconBuildingStore, IconChevronDown, IconLogout, IconShoppingCart } from '@tabler/icons-react';
import { useQuery, useSubscription } from 'urql';
import { Link, useRoute } from 'wouter';
import { ShopAccountChangedDocument, ShopAccountDocument } from '../generated/graphql';
import { ColorSchemeToggle } from '../shared/controls';
import { useFormat } from '../shared/format';
import { useSessions } from '../shared/session';
import { useCartTotal } from './cart';
import classes from './shop.module.css';

export function Header({ client }: { client: string }) {
  const { count } = useCartTotal();
  const [isProducts] = useRoute('/');
  const [isOrders] = useRoute('/orders/*?');
  const { number } = useFormat();
  return (
    <header className={classes.header}>
      <Link href="/" className={classes.brand}><IconBuildingStore aria-hidden /> <span>Corner Shop</span></Link>
      <nav aria-label="Pages" className={classes.nav}>
        <Link href="/" aria-current={isProducts ? 'page' : undefined}>Products</Link>
        <Link href="/orders" aria-current={isOrders ? 'page' : undefined}>My orders</Link>
      </nav>
      <div className={classes.tools}>
        <ColorSchemeToggle />
        <Button component={Link} href="/cart" variant="default" leftSection={<IconShoppingCart size={18} aria-hidden />} px="sm">
          Cart
          {count > 0 && <Badge ml="xs" size="md" className="number">{number(count)}<VisuallyHidden> units</VisuallyHidden></Badge>}
        </Button>
        <Account client={client} />
      </div>
    </header>
  );
}

/** Who is signed in, with the sums of the client, which follow each change. */
function Account({ client }: { client: string }) {
  const { signOut } = useSessions();
  const { money, count } = useFormat();
  const variables = { id: client };
  const [{ data, fetching }] = useQuery({ query: ShopAccountDocument, variables });
  const [{ data: changed }] = useSubscription({ query: ShopAccountChangedDocument, variables });
  // A client that has just registered may have been read before the read model had it.
  const account = data && (data.client ?? changed?.clientChanged);
  const name = account?.name ?? `Client ${client}`;
  return (
    <Popover position="bottom-end" width={260} trapFocus returnFocus withinPortal={false} shadow="md">
      <Popover.Target>
        <UnstyledButton className={classes.account}>
          <Avatar name={name} size={34} color="blue" aria-hidden />
          <VisuallyHidden>Account of </VisuallyHidden>
          <span className={classes.accountName}>{fetching && !account ? <Skeleton height={14} width={80} /> : name}</span>
          <IconChevronDown size={16} aria-hidden />
        </UnstyledButton>
      </Popover.Target>
      <Popover.Dropdown aria-label="Your account">
        <Text fw={600}>{name}</Text>
        {account && (
          <>
            <Text size="sm" c="dimmed">{account.email}</Text>
            <Text size="sm">{count(account.orderCount, 'order')} · {money(account.total)}</Text>
          </>
        )}
        <Button variant="default" fullWidth mt="sm" leftSection={<IconLogout size={16} aria-hidden />} onClick={signOut}>Sign out</Button>
      </Popover.Dropdown>
    </Popover>
  );
}
