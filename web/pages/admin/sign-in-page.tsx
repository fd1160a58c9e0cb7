import { Alert, Button, Divider, Paper, Stack, Text } from '@mantine/core';
import { useDocumentTitle } from '@mantine/hooks';
import { useSessions } from '../shared/session';
import { SignInForm } from '../shared/sign-in-form';
import classes from './admin.module.css';

export function SignInPage({ problem }: { problem?: string }) {
  const { state, signIn } = useSessions();
  useDocumentTitle('Sign in · Back office');
  return (
    <main className={classes.signIn}>
      {problem && <Alert color="red" role="alert">{problem}</Alert>}
      <SignInForm command="api token --scope 'sales:read orders:read clients:read products:read'" />
      {state.is === 'signed out' && state.development && (
        <Paper withBorder p="lg" maw="30rem" w="100%">
          <Stack>
            <Divider label="For development" />
            <Text size="sm" c="dimmed">This service runs for development, so you may do everything without a token of your own.</Text>
            <Button variant="default" onClick={() => signIn({ how: 'development' })}>Continue as developer</Button>
          </Stack>
        </Paper>
      )}
    </main>
  );
}
