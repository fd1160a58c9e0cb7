import { Group, Modal } from '@mantine/core';
import type { ReactNode } from 'react';

/** A dialog. The title of Mantine's own is in a `header`, which would be a second banner of the page. */
export function Dialog({ title, opened, onClose, children }: {
  title: string;
  opened: boolean;
  onClose: () => void;
  children: ReactNode;
}) {
  return (
    <Modal.Root opened={opened} onClose={onClose}>
      <Modal.Overlay />
      <Modal.Content>
        <Modal.Body pt="md">
          <Group justify="space-between" mb="sm" wrap="nowrap">
            <Modal.Title fw={650} fz="lg">{title}</Modal.Title>
            <Modal.CloseButton aria-label="Close" />
          </Group>
          {children}
        </Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}
