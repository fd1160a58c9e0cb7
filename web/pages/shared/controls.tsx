// Small parts that every page has: the switch between light and dark, and the notice of a lost connection.
import { ActionIcon, Alert, Tooltip, useComputedColorScheme, useMantineColorScheme } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { IconMoon, IconPlugConnectedX, IconSun } from '@tabler/icons-react';
import { useIsConnected } from './graphql';

export function ColorSchemeToggle() {
  const { setColorScheme } = useMantineColorScheme();
  const next = useComputedColorScheme('light') === 'dark' ? 'light' : 'dark';
  const label = `Use ${next} colours`;
  return (
    <Tooltip label={label}>
      <ActionIcon variant="default" size="lg" aria-label={label} onClick={() => setColorScheme(next)}>
        {next === 'dark' ? <IconMoon size={18} aria-hidden /> : <IconSun size={18} aria-hidden />}
      </ActionIcon>
    </Tooltip>
  );
}

/** Says that the connection is lost, unless it is back soon. */
export function ConnectionNotice() {
  const isConnected = useIsConnected();
  const [wasConnected] = useDebouncedValue(isConnected, 1_000);
  return (
    <div role="status">
      {!isConnected && !wasConnected && (
        <Alert color="yellow" radius={0} icon={<IconPlugConnectedX aria-hidden />} title="Connection lost">
          Reconnecting … What you see may be out of date.
        </Alert>
      )}
    </div>
  );
}
