import { Group, Modal } from '@mantine/core';
import type { ReactNode } from 'react';

/**
 * A dialog. It cannot be closed while it is busy, for example with a request. Its children exist only while it is open, so what they
 * remember does not appear again. `onClosed` is called when it has faded out. The title of Mantine's own is in a `header`, which would
 * be a second banner of the page.
 */
export function Dialog({ title, opened, isBusy = false, onClose, onClosed = () => {}, children }: {
  title: string;
  opened: boolean;
  isBusy?: boolean;
  onClose: () => void;
  onClosed?: () => void;
  children: ReactNode;
}) {
  return (
    <Modal.Root opened={opened} onClose={onClose} onExitTransitionEnd={onClosed} closeOnEscape={!isBusy} closeOnClickOutside={!isBusy}>
      <Modal.Overlay />
      <Modal.Content>
        <Modal.Body pt="md">
          <Group justify="space-between" mb="sm" wrap="nowrap">
            <Modal.Title fw={650} fz="lg">{title}</Modal.Title>
            <Modal.CloseButton aria-label="Close" disabled={isBusy} />
          </Group>
          {children}
        </Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}
