import { Button, Group, Popover, SegmentedControl, Stack, Switch, TextInput, UnstyledButton } from '@mantine/core';
import { useForm } from '@mantine/form';
import { useDisclosure } from '@mantine/hooks';
import { IconCalendar, IconChevronDown } from '@tabler/icons-react';
import type { Granularity } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { PRESETS, type Days, type Period, type usePeriod } from './period';
import classes from './overview.module.css';

const GRANULARITIES: Record<Granularity, string> = { HOUR: 'Hours', DAY: 'Days', MONTH: 'Months' };

/** Chooses the days, the length of the points, and whether they are compared. */
export function PeriodPicker({ period, preset, today, change }: ReturnType<typeof usePeriod>) {
  const { days, timeZone } = useFormat();
  return (
    <div className={classes.controls}>
      <PeriodButton period={period} preset={preset} today={today} change={change} />
      {period.granularities.length > 1 && (
        <SegmentedControl
          aria-label="Length of the points"
          data={period.granularities.map((value) => ({ value, label: GRANULARITIES[value] }))}
          value={period.granularity}
          onChange={(by) => change({ by })}
        />
      )}
      <Switch
        label="Compare"
        checked={period.isCompared}
        onChange={({ currentTarget }) => change({ compare: currentTarget.checked ? null : 'off' })}
      />
      <p className={classes.range}>
        {days(period.from, period.to)}
        {period.isCompared && <>, compared with {days(period.previous.from, period.previous.to)}</>} · {timeZone}
      </p>
    </div>
  );
}

function PeriodButton({ period, preset, today, change }: Omit<ReturnType<typeof usePeriod>, 'isFree'>) {
  const [isOpen, { toggle, close }] = useDisclosure();
  const choose = (changes: Record<string, string | null>) => {
    close();
    change({ range: null, from: null, to: null, by: null, ...changes });
  };
  return (
    <Popover opened={isOpen} onChange={close} position="bottom-start" trapFocus returnFocus withinPortal={false} shadow="md">
      <Popover.Target>
        <Button
          variant="default"
          onClick={toggle}
          leftSection={<IconCalendar size={18} aria-hidden />}
          rightSection={<IconChevronDown size={16} aria-hidden />}
        >
          {period.label}
        </Button>
      </Popover.Target>
      <Popover.Dropdown className={classes.periods}>
        <div className={classes.presets}>
          {Object.entries(PRESETS).map(([id, { label }]) => (
            <UnstyledButton key={id} className={classes.preset} aria-pressed={id === preset} onClick={() => choose({ range: id })}>
              {label}
            </UnstyledButton>
          ))}
        </div>
        <FreePeriod days={period} today={today} onChosen={(days) => choose(days)} />
      </Popover.Dropdown>
    </Popover>
  );
}

function FreePeriod({ days: { from, to }, today, onChosen }: { days: Days | Period; today: string; onChosen: (days: Days) => void }) {
  const form = useForm<Days>({
    initialValues: { from, to },
    validate: {
      from: (from) => (from ? null : 'Choose the first day.'),
      to: (to, { from }) => (!to ? 'Choose the last day.' : to > today ? 'This day is in the future.' : to < from ? 'It is before the first day.' : null),
    },
  });
  return (
    <form onSubmit={form.onSubmit(onChosen)} noValidate>
      <Stack gap="sm">
        <TextInput type="date" label="First day" max={today} key={form.key('from')} {...form.getInputProps('from')} />
        <TextInput type="date" label="Last day" max={today} key={form.key('to')} {...form.getInputProps('to')} />
        <Group justify="flex-end"><Button type="submit">Show these days</Button></Group>
      </Stack>
    </form>
  );
}
