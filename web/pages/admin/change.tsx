// Changes: their form in a dialog, why they are refused, and their idempotency key.
import { Alert, Button, Group, Stack, type ButtonProps } from '@mantine/core';
import { useForm, type UseFormInput } from '@mantine/form';
import { useDisclosure } from '@mantine/hooks';
import { createContext, useContext, useEffect, useRef, useState, type ReactNode } from 'react';
import { useMutation, type CombinedError, type TypedDocumentNode } from 'urql';
import { Dialog } from '../shared/dialog';
import { isPassing, messageOf } from '../shared/errors';
import { newKey } from '../shared/keys';
import classes from './parts/parts.module.css';

type UserError = { code: string; message: string; field?: string[] | null };
/** The input of a mutation that takes a key. */
type Keyed = { idempotencyKey?: string | null | undefined };
type Payload = { replayed: boolean; userErrors: UserError[] };

type Problem = { title: string; message: string };

export type Outcome<P> =
  | { is: 'done'; payload: P }
  | { is: 'refused'; errors: UserError[] }
  | { is: 'failed'; problem: Problem };

const ALREADY_DONE: Problem = {
  title: 'An earlier attempt was carried out',
  message: 'Its response was lost. Nothing else was changed now. Look at the current state before you try again.',
};

/**
 * Sends a change with an idempotency key that stays the same until the outcome is known, also if the dialog is closed or the page is
 * loaded again meanwhile. So a change whose response was lost can be sent again, and is made only once.
 * `name` is that of the change and of its object, for example "refund 7".
 */
export function useChange<Data, Variables extends { input: Keyed }, P extends Payload>(
  name: string,
  document: TypedDocumentNode<Data, Variables>,
  payloadOf: (data: Data) => P | null | undefined,
) {
  const [{ fetching }, execute] = useMutation(document);
  const stored = `change ${name}`;
  const send = async (input: Variables['input']): Promise<Outcome<P>> => {
    const idempotencyKey = sessionStorage.getItem(stored) ?? newKey();
    sessionStorage.setItem(stored, idempotencyKey);
    const { data, error } = await execute({ input: { ...input, idempotencyKey } } as Variables);
    const payload = data && payloadOf(data);
    if (!payload) return { is: 'failed', problem: problemOf(error) };
    sessionStorage.removeItem(stored);
    const { userErrors } = payload;
    if (userErrors.some(({ code }) => code === 'IDEMPOTENCY_KEY_REUSED')) return { is: 'failed', problem: ALREADY_DONE };
    return userErrors.length > 0 ? { is: 'refused', errors: userErrors } : { is: 'done', payload };
  };
  return { send, isSending: fetching };
}

function problemOf(error: CombinedError | undefined): Problem {
  if (!error) return { title: 'The change failed', message: 'The service has failed.' };
  return isPassing(error)
    ? { title: 'It is not known whether this was done', message: `${messageOf(error)} You can send it again: it is done only once.` }
    : { title: 'Nothing was changed', message: messageOf(error) };
}

type ChangeInput<Values, Data, Variables extends { input: Keyed }, P> = {
  name: string;
  document: TypedDocumentNode<Data, Variables>;
  payloadOf: (data: Data) => P | null | undefined;
  initialValues: Values;
  validate: NonNullable<UseFormInput<Values>['validate']>;
  /** Only called with valid values. */
  inputOf: (values: Values) => Variables['input'];
  onDone: (payload: P) => void;
};

/** The form of a change in a dialog, which is closed when the change was made. The values are those of the moment when it was opened. */
export function useChangeForm<Values extends Record<string, string>, Data, Variables extends { input: Keyed }, P extends Payload>(
  { name, document, payloadOf, initialValues, validate, inputOf, onDone }: ChangeInput<Values, Data, Variables, P>,
) {
  const { close, setBusy } = useDialog();
  const form = useForm<Values>({ initialValues, validate });
  const [problem, setProblem] = useState<Problem>();
  const { send, isSending } = useChange(name, document, payloadOf);
  useEffect(() => setBusy(isSending), [isSending]);
  const focusOn = (errors: object) => {
    const [first] = Object.keys(errors);
    if (first) form.getInputNode(first)?.focus();
  };
  const submit = form.onSubmit(async (values) => {
    if (isSending) return;
    setProblem(undefined);
    const outcome = await send(inputOf(values));
    if (outcome.is === 'failed') return setProblem(outcome.problem);
    if (outcome.is === 'done') {
      close();
      return onDone(outcome.payload);
    }
    const isOfField = ({ field }: UserError) => field?.[1] !== undefined && field[1] in values;
    const others = outcome.errors.filter((error) => !isOfField(error)).map(({ message }) => message);
    const errors = Object.fromEntries(outcome.errors.filter(isOfField).map(({ field, message }) => [field![1], message]));
    form.setErrors(errors);
    focusOn(errors);
    if (others.length > 0) setProblem({ title: 'Nothing was changed', message: others.join(' ') });
  }, focusOn);
  return { form, problem, submit, isSending };
}

/** The frame of such a form: the problem, the fields, and the buttons. */
export function ChangeForm({ change: { problem, submit, isSending }, submitLabel, color = 'blue', children }: {
  change: Pick<ReturnType<typeof useChangeForm>, 'problem' | 'submit' | 'isSending'>;
  submitLabel: string;
  color?: string;
  children: ReactNode;
}) {
  const { close } = useDialog();
  const alert = useRef<HTMLDivElement>(null);
  useEffect(() => alert.current?.focus(), [problem]);
  return (
    <form onSubmit={submit} noValidate className={classes.fields}>
      {problem && <Alert ref={alert} tabIndex={-1} color="red" role="alert" title={problem.title}>{problem.message}</Alert>}
      <Stack>{children}</Stack>
      <Group justify="flex-end">
        <Button variant="default" onClick={close} disabled={isSending}>Close</Button>
        <Button type="submit" color={color} loading={isSending}>{submitLabel}</Button>
      </Group>
    </form>
  );
}

type DialogState = { close: () => void; setBusy: (isBusy: boolean) => void };
const DialogContext = createContext<DialogState | undefined>(undefined);
export const useDialog = (): DialogState => useContext(DialogContext)!;

/**
 * A button that opens a dialog, which cannot be closed while it is busy. Without `isOffered` there is no button, but a dialog that is open
 * stays so.
 */
export function DialogButton({ label, title, isOffered = true, children, ...button }: ButtonProps & {
  label: string;
  title: string;
  isOffered?: boolean;
  children: ReactNode;
}) {
  const [isOpen, { open, close }] = useDisclosure();
  const [isBusy, setBusy] = useState(false);
  return (
    <>
      {isOffered && <Button variant="default" {...button} onClick={open}>{label}</Button>}
      <Dialog title={title} opened={isOpen} onClose={close} isBusy={isBusy} onClosed={focusSomething}>
        <DialogContext value={{ close, setBusy }}>{children}</DialogContext>
      </Dialog>
    </>
  );
}

/** The button that has opened the dialog may be gone: then the heading of the page gets the focus. */
function focusSomething() {
  if (document.activeElement === document.body) document.querySelector('h1')?.focus();
}

/** What has just been done, for everyone to see and hear. */
export function Notice({ children }: { children: ReactNode }) {
  return <div role="status">{children && <Alert color="green" mb="md">{children}</Alert>}</div>;
}
