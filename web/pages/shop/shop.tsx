// The shop: products and a cart, the checkout, and the orders of the client who has signed in.
import { Button } from '@mantine/core';
import { Link, Route, Router, Switch } from 'wouter';
import { ConnectionNotice } from '../shared/controls';
import { GraphqlProvider } from '../shared/graphql';
import { SessionProvider, SignedIn } from '../shared/session';
import { CartPage } from './cart-page';
import { CartProvider } from './cart';
import { CheckoutProvider, useCheckout } from './checkout';
import { Header } from './header';
import { OrderPage, PlacingPage } from './order-page';
import { OrdersPage } from './orders-page';
import { ProductsPage } from './products-page';
import { SignInPage } from './sign-in-page';
import { View } from './view';

export const Shop = () => (
  <Router base="/shop">
    <SessionProvider app="shop">
      <SignedIn signInPage={<SignInPage />}>
        {(session) =>
          session.client === undefined ? (
            <SignInPage problem="This token is not for one client, so nobody could order with it." />
          ) : (
            <GraphqlProvider key={session.client} session={session}>
              <CartProvider>
                <CheckoutProvider>
                  <Header client={session.client} />
                  <ConnectionNotice />
                  <Pages />
                </CheckoutProvider>
              </CartProvider>
            </GraphqlProvider>
          )
        }
      </SignedIn>
    </SessionProvider>
  </Router>
);

function Pages() {
  const { placing } = useCheckout();
  if (placing) return <PlacingPage lines={placing} />;
  return (
    <Switch>
      <Route path="/"><ProductsPage /></Route>
      <Route path="/cart"><CartPage /></Route>
      <Route path="/orders"><OrdersPage /></Route>
      <Route path="/orders/:id">{({ id }) => <OrderPage key={id} id={id} />}</Route>
      <Route><NotFoundPage /></Route>
    </Switch>
  );
}

const NotFoundPage = () => (
  <View title="Page not found">
    <p>There is no page with this address.</p>
    <Button component={Link} href="/">Show the products</Button>
  </View>
);
