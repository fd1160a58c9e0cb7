import { Alert, Button, Code, Paper, PasswordInput, Stack, Text, Title } from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { useSessions } from './session';

/** Signs in with a token that the user pastes. `command` prints such a token. */
export function TokenForm({ command }: { command: string }) {
  const { state, signIn } = useSessions();
  const form = useForm({ initialValues: { token: '' }, validate: { token: isNotEmpty('Paste a token.') } });
  const submit = async ({ token }: { token: string }) => {
    const problem = await signIn({ how: 'token', token: token.trim() });
    if (problem) {
      form.setFieldError('token', problem);
      form.getInputNode('token')?.focus();
    }
  };
  return (
    <Paper withBorder p="lg" maw="30rem" w="100%">
      <form onSubmit={form.onSubmit(submit, () => form.getInputNode('token')?.focus())} noValidate>
        <Stack>
          <Title order={1} size="h2">Sign in</Title>
          {state.is === 'signed out' && state.hasExpired && (
            <Alert color="yellow" role="alert">Your session has expired. Sign in again.</Alert>
          )}
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
    </Paper>
  );
}
