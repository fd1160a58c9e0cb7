// Signing in to the shop: with a token, or during development as one of the clients of the service.
import { Alert, Avatar, Button, Collapse, Paper, Skeleton, Stack, Text, TextInput, Title, UnstyledButton } from '@mantine/core';
import { isEmail, isNotEmpty, useForm } from '@mantine/form';
import { useDebouncedValue, useDisclosure, useDocumentTitle } from '@mantine/hooks';
import { IconChevronRight, IconSearch } from '@tabler/icons-react';
import { useRef, useState } from 'react';
import { useMutation, useQuery } from 'urql';
import { DemoClientsDocument, RegisterDemoClientDocument } from '../generated/graphql';
import { messageOf, Problem } from '../shared/errors';
import { GraphqlProvider } from '../shared/graphql';
import { newKey } from '../shared/keys';
import { useSessions } from '../shared/session';
import { SignInForm } from '../shared/sign-in-form';
import classes from './shop.module.css';

const COMMAND = "api token --client 1 --scope 'orders:place orders:read orders:cancel clients:read products:read'";

export function SignInPage({ problem }: { problem?: string }) {
  const { state } = useSessions();
  useDocumentTitle('Sign in · Shop');
  const development = state.is === 'signed out' ? state.development : undefined;
  return (
    <main className={classes.signIn}>
      {problem && <Alert color="red" role="alert">{problem}</Alert>}
      {development ? (
        <GraphqlProvider session={development}><ChooseClient /></GraphqlProvider>
      ) : (
        <SignInForm command={COMMAND} />
      )}
    </main>
  );
}

/** Only for a service for development on the same machine, which gives the page a token for any client. */
function ChooseClient() {
  const { state, signIn } = useSessions();
  const [search, setSearch] = useState('');
  const [searched] = useDebouncedValue(search.trim(), 250);
  const [{ data, error }, read] = useQuery({ query: DemoClientsDocument, variables: { search: searched || null } });
  const clients = data?.clients?.nodes;
  const [isRegistering, { toggle }] = useDisclosure();
  const enter = (client: string) => void signIn({ how: 'development', client });
  return (
    <Paper withBorder p="lg" maw="28rem" w="100%">
      <Stack>
        <Title order={1} size="h2">Who is shopping?</Title>
        {state.is === 'signed out' && state.hasExpired && (
          <Alert color="yellow" role="alert">Your session has expired. Sign in again: your cart is still there.</Alert>
        )}
        <Text c="dimmed" size="sm">
          This is a shop for development. Choose a client: you get a token for this client alone. In production, clients sign in.
        </Text>
        <TextInput
          type="search"
          aria-label="Search clients"
          placeholder="Search by name or e-mail address"
          leftSection={<IconSearch size={16} aria-hidden />}
          maxLength={200}
          value={search}
          onChange={({ currentTarget }) => setSearch(currentTarget.value)}
        />
        {error && <Problem title="The clients cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />}
        {!clients && !error && <Skeleton height={360} aria-hidden={false} role="status" aria-label="Loading the clients" />}
        {clients?.length === 0 && <Text role="status">No client matches.</Text>}
        <ul className={classes.clients}>
          {clients?.map(({ id, name, email }) => (
            <li key={id}>
              <UnstyledButton className={classes.client} onClick={() => enter(id)}>
                <Avatar name={name} color="blue" aria-hidden />
                <span className={classes.clientName}><strong>{name}</strong><Text size="sm" c="dimmed" component="span">{email}</Text></span>
                <IconChevronRight size={18} aria-hidden />
              </UnstyledButton>
            </li>
          ))}
        </ul>
        <Button variant="default" onClick={toggle} aria-expanded={isRegistering}>Register a new client</Button>
        <Collapse expanded={isRegistering}><Register onRegistered={enter} /></Collapse>
      </Stack>
    </Paper>
  );
}

function Register({ onRegistered }: { onRegistered: (client: string) => void }) {
  const [, register] = useMutation(RegisterDemoClientDocument);
  const [problem, setProblem] = useState<string>();
  const key = useRef(newKey());
  const form = useForm({
    initialValues: { name: '', email: '' },
    onValuesChange: () => (key.current = newKey()),
    validate: { name: isNotEmpty('Enter a name.'), email: isEmail('Enter an e-mail address.') },
  });
  const focus = (errors: object) => {
    const [first] = Object.keys(errors);
    if (first) form.getInputNode(first)?.focus();
  };
  const submit = async (values: { name: string; email: string }) => {
    const { data, error } = await register({ input: { ...values, idempotencyKey: key.current } });
    setProblem(error && messageOf(error));
    if (!data?.registerClient) return;
    const { clientId, userErrors } = data.registerClient;
    if (clientId) return onRegistered(clientId);
    const errors = Object.fromEntries(userErrors.map(({ field, message }) => [field?.[1] ?? 'name', message]));
    form.setErrors(errors);
    focus(errors);
  };
  return (
    <form onSubmit={form.onSubmit(submit, focus)} noValidate>
      <Stack>
        {problem && <Alert color="red" role="alert">{problem}</Alert>}
        <TextInput label="Name" autoComplete="name" maxLength={200} key={form.key('name')} {...form.getInputProps('name')} />
        <TextInput label="E-mail address" type="email" autoComplete="email" maxLength={200} key={form.key('email')} {...form.getInputProps('email')} />
        <Button type="submit" loading={form.submitting}>Register and sign in</Button>
      </Stack>
    </form>
  );
}
