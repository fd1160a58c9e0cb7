import { CloseButton, TextInput } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { IconSearch } from '@tabler/icons-react';
import { useEffect, useState } from 'react';

/** A search while the user types. `onSearch` gets the text when the user pauses. */
export function SearchInput({ label, placeholder, value, onSearch }: {
  label: string;
  placeholder: string;
  value: string;
  onSearch: (text: string) => void;
}) {
  const [text, setText] = useState(value);
  const [typed] = useDebouncedValue(text.trim(), 250);
  useEffect(() => {
    if (typed !== value) onSearch(typed);
  }, [typed]);
  useEffect(() => {
    // The address has changed, for example because the filters were cleared.
    if (value !== text.trim()) setText(value);
  }, [value]);
  return (
    <TextInput
      type="search"
      label={label}
      placeholder={placeholder}
      maxLength={200}
      leftSection={<IconSearch size={16} aria-hidden />}
      rightSection={text && <CloseButton aria-label="Clear the search" onClick={() => setText('')} />}
      value={text}
      onChange={({ currentTarget }) => setText(currentTarget.value)}
    />
  );
}
