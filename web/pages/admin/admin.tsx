// The back office: sales, orders, clients, products and the state of the service.
import { Button, EmptyState, Skeleton } from '@mantine/core';
import { IconLock, IconMapQuestion } from '@tabler/icons-react';
import { lazy, Suspense, useMemo, type ReactNode } from 'react';
import { ErrorBoundary } from 'react-error-boundary';
import { Link, Route, Router, Switch, useLocation } from 'wouter';
import { createFormat, FormatProvider } from '../shared/format';
import { GraphqlProvider } from '../shared/graphql';
import { SessionProvider, SignedIn, useSession, type Session } from '../shared/session';
import { cacheOptions } from './cache';
import { Crash } from './crash';
import OverviewPage from './overview/overview-page';
import { Shell } from './shell';
import { SignInPage } from './sign-in-page';
import { View } from './view';

// The overview comes with the frame, because most visits begin with it: another file would cost another round trip.
const OrdersPage = lazy(() => import('./orders/orders-page'));
const OrderPage = lazy(() => import('./orders/order-page'));
const ClientsPage = lazy(() => import('./clients/clients-page'));
const ClientPage = lazy(() => import('./clients/client-page'));
const ProductsPage = lazy(() => import('./products/products-page'));
const ProductPage = lazy(() => import('./products/product-page'));
const SystemPage = lazy(() => import('./system/system-page'));

export const Admin = () => (
  <Router base="/admin">
    <SessionProvider app="admin" initial={{ how: 'development' }}>
      <SignedIn signInPage={<SignInPage />}>
        {(session) =>
          session.client !== undefined ? (
            <SignInPage problem="This token is for one client. The back office needs one that is for all clients." />
          ) : (
            <GraphqlProvider session={session} options={cacheOptions}>
              <ShopFormat session={session}>
                <Shell><Pages /></Shell>
              </ShopFormat>
            </GraphqlProvider>
          )
        }
      </SignedIn>
    </SessionProvider>
  </Router>
);

/** Formats in the locale and the time zone of the shop. */
function ShopFormat({ session: { locale, timeZone }, children }: { session: Session; children: ReactNode }) {
  const format = useMemo(() => createFormat(locale, reportZone(timeZone)), [locale, timeZone]);
  return <FormatProvider value={format}>{children}</FormatProvider>;
}

/** Days of reports can begin at each half hour. In other time zones (Nepal, Chatham Islands), they are those of UTC. */
function reportZone(timeZone: string | undefined): string {
  const format = new Intl.DateTimeFormat('en', { timeZone, timeZoneName: 'longOffset' });
  const offset = format.formatToParts().find(({ type }) => type === 'timeZoneName')?.value ?? '';
  return /:(15|45)/.test(offset) ? 'UTC' : format.resolvedOptions().timeZone;
}

function Pages() {
  const [location] = useLocation();
  return (
    <ErrorBoundary FallbackComponent={Crash} resetKeys={[location]}>
      <Suspense fallback={<Skeleton height={400} radius="md" role="status" aria-hidden={false} aria-label="Loading the page" />}>
        <Switch>
          <Route path="/"><Needs scope="sales:read"><OverviewPage /></Needs></Route>
          <Route path="/orders"><Needs scope="orders:read"><OrdersPage /></Needs></Route>
          <Route path="/orders/:id">{({ id }) => <Needs scope="orders:read"><OrderPage key={id} id={id} /></Needs>}</Route>
          <Route path="/clients"><Needs scope="clients:read"><ClientsPage /></Needs></Route>
          <Route path="/clients/:id">{({ id }) => <Needs scope="clients:read"><ClientPage key={id} id={id} /></Needs>}</Route>
          <Route path="/products"><Needs scope="products:read"><ProductsPage /></Needs></Route>
          <Route path="/products/:id">{({ id }) => <Needs scope="products:read"><ProductPage key={id} id={id} /></Needs>}</Route>
          <Route path="/system"><Needs scope="system:read"><SystemPage /></Needs></Route>
          <Route><NotFoundPage /></Route>
        </Switch>
      </Suspense>
    </ErrorBoundary>
  );
}

/** Shows a page to those whose token has the scope. */
function Needs({ scope, children }: { scope: string; children: ReactNode }) {
  if (useSession().may(scope)) return children;
  return (
    <View title="Not allowed">
      <EmptyState
        icon={<IconLock aria-hidden />}
        title="You may not see this page"
        description={`It needs the scope ${scope}. Sign in with a token that has it, or ask an administrator.`}
      />
    </View>
  );
}

const NotFoundPage = () => (
  <View title="Page not found">
    <EmptyState icon={<IconMapQuestion aria-hidden />} title="There is no page with this address" description="The link may be incomplete.">
      <EmptyState.Actions><Button component={Link} href="/">Show the overview</Button></EmptyState.Actions>
    </EmptyState>
  </View>
);
