// Failed requests: what to tell the user, by the code of the service.
import { Alert, Button, Group } from '@mantine/core';
import { IconAlertCircle } from '@tabler/icons-react';
import type { CombinedError } from 'urql';

const MESSAGES: Record<string, string> = {
  COMMAND_STORE_UNAVAILABLE: 'The service cannot read or write orders at the moment.',
  FORBIDDEN: 'You are not allowed to do this.',
  INTERNAL_SERVER_ERROR: 'The service has failed. Try again later.',
  OPERATION_TIMEOUT: 'The service took too long.',
  PERSISTED_QUERY_NOT_FOUND: 'The service has been updated. Reload this page.',
  RATE_LIMITED: 'You have sent too many requests. Wait a moment.',
  READ_MODEL_BEHIND: 'The service is catching up with the latest changes.',
  READ_MODEL_UNAVAILABLE: 'The service cannot answer this at the moment.',
  SERVER_BUSY: 'The service is busy.',
  UNAUTHENTICATED: 'Your session has expired. Sign in again.',
};

export const codesOf = (error: CombinedError): string[] =>
  error.graphQLErrors.map(({ extensions }) => String(extensions['code'] ?? ''));

/** A sentence for the user. */
export function messageOf(error: CombinedError): string {
  if (error.networkError) return 'The service cannot be reached.';
  const [first] = error.graphQLErrors;
  return MESSAGES[codesOf(error)[0] ?? ''] ?? first?.message ?? error.message;
}

/** Failures that pass, so that the same request may succeed soon. */
const PASSING = [
  'COMMAND_STORE_UNAVAILABLE',
  'OPERATION_TIMEOUT',
  'RATE_LIMITED',
  'READ_MODEL_BEHIND',
  'READ_MODEL_UNAVAILABLE',
  'SERVER_BUSY',
];
export const isPassing = (error: CombinedError): boolean =>
  Boolean(error.networkError) || codesOf(error).some((code) => PASSING.includes(code));

/** An error in its place on the page, with a button that tries again. */
export function Problem({ title, error, onRetry }: { title: string; error: CombinedError; onRetry?: () => void }) {
  return (
    <Alert color="red" title={title} icon={<IconAlertCircle aria-hidden />} role="alert">
      <Group justify="space-between" gap="sm">
        <span>{messageOf(error)}</span>
        {onRetry && <Button size="xs" color="red" onClick={onRetry}>Try again</Button>}
      </Group>
    </Alert>
  );
}
