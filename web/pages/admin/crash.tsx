import { Alert, Button, Group } from '@mantine/core';
import { IconAlertCircle } from '@tabler/icons-react';
import type { FallbackProps } from 'react-error-boundary';
import { View } from './view';

/** A new version of the service has other files: only a reload finds them. */
const isOfOldVersion = (error: unknown) => error instanceof TypeError && error.message.includes('module');

/** Instead of a page that has failed. The rest of the back office keeps working. */
export const Crash = ({ error, resetErrorBoundary }: FallbackProps) => (
  <View title="This page has failed">
    <Alert color="red" role="alert" icon={<IconAlertCircle aria-hidden />} title="Something went wrong on this page">
      <Group justify="space-between" gap="sm">
        <span>{isOfOldVersion(error) ? 'It cannot be loaded. The service may have been updated.' : 'Try again, or open another page.'}</span>
        <Group gap="sm">
          <Button size="xs" color="red" variant="outline" onClick={() => location.reload()}>Reload</Button>
          {!isOfOldVersion(error) && <Button size="xs" color="red" onClick={resetErrorBoundary}>Try again</Button>}
        </Group>
      </Group>
    </Alert>
  </View>
);
