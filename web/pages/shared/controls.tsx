// Small parts that every page has: the switch between light and dark, and the notice of a lost connection.
import { ActionIcon, Alert, Tooltip, useComputedColorScheme, useMantineColorScheme } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { IconMoon, IconPlugConnectedX, IconSun } from '@tabler/icons-react';
import { useConnection } from './graphql';

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

const NOTICES = {
  lost: { title: 'Connection lost', text: 'Reconnecting … What you see may be out of date.' },
  interrupted: { title: 'Updates are interrupted', text: 'What you see may be out of date.' },
};

/** Warns that changes do not arrive, unless they do again soon. */
export function ConnectionNotice() {
  const connection = useConnection();
  const [before] = useDebouncedValue(connection, 1_000);
  const notice = connection !== 'connected' && before !== 'connected' ? NOTICES[connection] : undefined;
  return (
    <div role="status">
      {notice && <Alert color="yellow" radius={0} icon={<IconPlugConnectedX aria-hidden />} title={notice.title}>{notice.text}</Alert>}
    </div>
  );
}
