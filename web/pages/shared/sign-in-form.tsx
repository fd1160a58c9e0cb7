// Signing in: with the provider of the service, or with a token if it has none.
import { Alert, Button, Code, Paper, PasswordInput, Stack, Text, Title } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { useState } from 'react';
import { useSessions } from './session';

/** `command` prints a token. */
export function SignInForm({ command }: { command: string }) {
  const { state, signOut } = useSessions();
  // A page may refuse a user whom the provider has signed in.
  const isRefused = state.is === 'signed in' && state.session.signIn.how === 'oidc';
  return (
    <Paper withBorder p="lg" maw="30rem" w="100%">
      <Stack>
        <Title order={1} size="h2">Sign in</Title>
        {state.is === 'signed out' && state.hasExpired && (
          <Alert color="yellow" role="alert">Your session has expired. Sign in again.</Alert>
        )}
        {isRefused ? (
          <Button onClick={signOut}>Sign out</Button>
        ) : state.is === 'signed out' && state.hasProvider ? (
          <ProviderForm problem={state.problem} />
        ) : (
          <TokenForm command={command} />
        )}
      </Stack>
    </Paper>
  );
}

function ProviderForm({ problem }: { problem: string | undefined }) {
  const { signIn } = useSessions();
  const form = useForm();
  const [refusal, setRefusal] = useState(problem);
  const submit = async () => {
    setRefusal(undefined);
    setRefusal(await signIn({ how: 'oidc' }));
  };
  return (
    <form onSubmit={form.onSubmit(submit)}>
      <Stack>
        {refusal && <Alert color="red" role="alert">{refusal}</Alert>}
        <Text>You enter your password on the page of the sign-in service, and then come back.</Text>
        <Button type="submit" loading={form.submitting} autoFocus>Sign in</Button>
      </Stack>
    </form>
  );
}

function TokenForm({ command }: { command: string }) {
  const { signIn } = useSessions();
  const form = useForm({ initialValues: { token: '' }, validate: { token: isNotEmpty('Paste a token.') } });
  const submit = async ({ token }: { token: string }) => {
    const problem = await signIn({ how: 'token', token: token.trim() });
    if (problem) {
      form.setFieldError('token', problem);
      form.getInputNode('token')?.focus();
    }
  };
  return (
    <form onSubmit={form.onSubmit(submit, () => form.getInputNode('token')?.focus())} noValidate>
      <Stack>
        <PasswordInput
          label="Token"
          description="For development. It is kept until you close this tab."
          autoComplete="off"
          autoFocus
          required
          withAsterisk={false}
          visibilityToggleButtonProps={{ 'aria-label': 'Show the token' }}
          key={form.key('token')}
          {...form.getInputProps('token')}
        />
        <Text size="sm">This command prints one: <Code>{command}</Code></Text>
        <Button type="submit" loading={form.submitting}>Sign in</Button>
      </Stack>
    </form>
  );
}
