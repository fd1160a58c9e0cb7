// Which orders are listed. The filters are in the address, so that a list can be reloaded, shared and returned to.
import { Button, CloseButton, NativeSelect, Select, TextInput } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { IconSearch } from '@tabler/icons-react';
import { useEffect, useState } from 'react';
import { useQuery } from 'urql';
import { useSearchParams } from 'wouter';
import { AdminClientNameDocument, AdminClientOptionsDocument, type OrderStatus } from '../../generated/graphql';
import { STATUS } from '../../shared/status';
import { useSession } from '../../shared/session';
import classes from './orders.module.css';

export type Filters = { status?: OrderStatus; from?: string; to?: string; client?: string; id?: string };

const RULES: Record<keyof Filters, (text: string) => boolean> = {
  status: (text) => text in STATUS,
  from: isDay,
  to: isDay,
  client: Boolean,
  id: Boolean,
};

function isDay(text: string): boolean {
  return /^\d{4}-\d{2}-\d{2}$/.test(text) && !Number.isNaN(Date.parse(text));
}

/** Values that the address has wrong are left out. */
const parseFilters = (params: URLSearchParams): Filters =>
  Object.fromEntries(Object.entries(RULES).flatMap(([name, isValid]) => {
    const value = params.get(name);
    return value !== null && isValid(value) ? [[name, value]] : [];
  }));

export function useFilters() {
  const [params, setParams] = useSearchParams();
  const filters = parseFilters(params);
  const set = (changes: { [Name in keyof Filters]?: string | undefined }) => {
    const entries = Object.entries({ ...filters, ...changes }).filter((entry): entry is [string, string] => Boolean(entry[1]));
    setParams(Object.fromEntries(entries), { replace: true });
  };
  return { filters, set, clear: () => setParams({}, { replace: true }) };
}

export function FilterBar({ filters, set, clear }: ReturnType<typeof useFilters>) {
  const { status, from, to, client, id } = filters;
  const mayFind = useSession().may('clients:read');
  return (
    <div role="search" aria-label="Filter the orders" className={classes.filters}>
      <NativeSelect
        label="Status"
        value={status ?? ''}
        onChange={({ currentTarget }) => set({ status: currentTarget.value, id: undefined })}
        data={[{ value: '', label: 'All' }, ...Object.entries(STATUS).map(([value, [label]]) => ({ value, label }))]}
      />
      {mayFind
        ? <ClientSelect value={client} onChange={(client) => set({ client, id: undefined })} />
        : <SearchInput label="Client" placeholder="Client id" value={client} onSearch={(client) => set({ client, id: undefined })} />}
      {/* A first day after the last one moves it. */}
      <DayInput label="From" value={from} onChange={(day) => set({ from: day, to: to && day > to ? day : to, id: undefined })} />
      <DayInput label="To" value={to} onChange={(day) => set({ to: day, from: day && from && day < from ? day : from, id: undefined })} />
      <SearchInput label="Order" placeholder="Order id" value={id} onSearch={(id) => (id ? set({ ...NONE, id }) : clear())} />
      {Object.keys(filters).length > 0 && <Button variant="subtle" onClick={clear} className={classes.clear}>Clear the filters</Button>}
    </div>
  );
}

/** An order id finds one order, whatever the other filters are. */
const NONE = { status: undefined, from: undefined, to: undefined, client: undefined };

const DayInput = ({ label, value, onChange }: { label: string; value: string | undefined; onChange: (day: string) => void }) => (
  <TextInput type="date" label={label} max="9999-12-31" value={value ?? ''} onChange={({ currentTarget }) => onChange(currentTarget.value)} />
);

/** A text that is searched when the enter key is pressed or the input is left. */
function SearchInput({ label, placeholder, value = '', onSearch }: {
  label: string;
  placeholder: string;
  value: string | undefined;
  onSearch: (text: string) => void;
}) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const search = (text: string) => text.trim() !== value && onSearch(text.trim());
  return (
    <TextInput
      label={label}
      placeholder={placeholder}
      leftSection={<IconSearch size={16} aria-hidden />}
      rightSection={text && <CloseButton aria-label={`Clear: ${label}`} onClick={() => { setText(''); search(''); }} />}
      value={text}
      onChange={({ currentTarget }) => setText(currentTarget.value)}
      onKeyDown={({ key }) => key === 'Enter' && search(text)}
      onBlur={() => search(text)}
    />
  );
}

function ClientSelect({ value, onChange }: { value: string | undefined; onChange: (id: string | undefined) => void }) {
  const [search, setSearch] = useState('');
  const [searched] = useDebouncedValue(search.trim(), 250);
  const [{ data: chosen }] = useQuery({ query: AdminClientNameDocument, variables: { id: value! }, pause: !value });
  const client = value ? chosen?.client : undefined;
  // The text of the chosen client is not a search.
  const isSearch = searched !== '' && searched !== client?.name;
  const [{ data, fetching }] = useQuery({ query: AdminClientOptionsDocument, variables: { search: searched }, pause: !isSearch });
  const found = (isSearch && data?.clients?.nodes) || [];
  const options = [...(value ? [{ id: value, name: client?.name ?? `Client ${value}`, email: client?.email ?? '' }] : []), ...found.filter(({ id }) => id !== value)];
  return (
    <Select
      label="Client"
      placeholder="Name or e-mail address"
      searchable
      clearable
      clearButtonProps={{ 'aria-label': 'Clear: Client', 'aria-hidden': false, tabIndex: 0 }}
      value={value ?? null}
      onChange={(id) => onChange(id ?? undefined)}
      onSearchChange={setSearch}
      data={options.map(({ id, name }) => ({ value: id, label: name }))}
      filter={({ options }) => options}
      renderOption={({ option }) => <ClientOption name={option.label} email={options.find(({ id }) => id === option.value)?.email ?? ''} />}
      nothingFoundMessage={isSearch ? (fetching ? 'Searching …' : 'No client matches.') : 'Type the beginning of a name.'}
      comboboxProps={{ withinPortal: false }}
      maxLength={200}
    />
  );
}

const ClientOption = ({ name, email }: { name: string; email: string }) => (
  <span className={classes.option}><span>{name}</span><small>{email}</small></span>
);
