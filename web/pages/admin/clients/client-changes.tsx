// Registering, changing and forgetting a client.
import { Text, TextInput } from '@mantine/core';
import { isEmail } from '@mantine/form';
import { useState } from 'react';
import {
  AdminForgetClientDocument, AdminRegisterClientDocument, AdminUpdateClientDocument,
  type AdminClientStateFragment, type AdminRegisterClientMutation, type UpdateClientInput,
} from '../../generated/graphql';
import { ChangeForm, useChangeForm } from '../change';
import classes from '../parts/parts.module.css';

/** The address of a client that was forgotten is replaced by one whose domain nobody can have. */
export const isForgotten = ({ email }: { email: string }) => email.endsWith('@invalid');

const RULES = {
  name: (name: string) => (name.trim() ? null : 'Enter a name.'),
  email: (email: string) => isEmail('Enter an e-mail address.')(email.trim()),
};

const trimmed = ({ name, email }: { name: string; email: string }) => ({ name: name.trim(), email: email.trim() });

type Registered = NonNullable<AdminRegisterClientMutation['registerClient']>;

export function RegisterForm({ onDone }: { onDone: (payload: Registered) => void }) {
  const change = useChangeForm({
    name: 'register client',
    document: AdminRegisterClientDocument,
    payloadOf: ({ registerClient }) => registerClient,
    initialValues: { name: '', email: '' },
    validate: RULES,
    inputOf: trimmed,
    onDone,
  });
  return (
    <ChangeForm change={change} submitLabel="Register the client">
      <Fields inputs={change.form.getInputProps} />
    </ChangeForm>
  );
}

export function EditForm({ client, onDone }: { client: AdminClientStateFragment; onDone: (notice: string) => void }) {
  // The client as it was when the dialog was opened: it follows each change meanwhile.
  const [{ id, name, email }] = useState(client);
  const change = useChangeForm({
    name: `update client ${id}`,
    document: AdminUpdateClientDocument,
    payloadOf: ({ updateClient }) => updateClient,
    initialValues: { name, email },
    validate: RULES,
    // What was not edited keeps the value that someone else may have given it meanwhile.
    inputOf: (values): UpdateClientInput => {
      const now = trimmed(values);
      return { id, ...(now.name !== name && { name: now.name }), ...(now.email !== email && { email: now.email }) };
    },
    onDone: () => onDone('The client is changed.'),
  });
  return (
    <ChangeForm change={change} submitLabel="Save">
      <Fields inputs={change.form.getInputProps} />
    </ChangeForm>
  );
}

const Fields = ({ inputs }: { inputs: (path: 'name' | 'email') => object }) => (
  <>
    <TextInput label="Name" autoComplete="off" maxLength={200} data-autofocus {...inputs('name')} />
    <TextInput label="E-mail address" type="email" autoComplete="off" maxLength={200} {...inputs('email')} />
  </>
);

export function ForgetForm({ client: { id, name }, onDone }: { client: AdminClientStateFragment; onDone: (notice: string) => void }) {
  const change = useChangeForm({
    name: `forget client ${id}`,
    document: AdminForgetClientDocument,
    payloadOf: ({ forgetClient }) => forgetClient,
    initialValues: { confirmation: '' },
    validate: { confirmation: (text) => (text.trim() === name.trim() ? null : 'Type the name exactly as it is written above.') },
    inputOf: () => ({ id }),
    onDone: () => onDone('The client is forgotten.'),
  });
  return (
    <ChangeForm change={change} submitLabel="Forget the client" color="red">
      <Text>The name and the e-mail address of <strong>{name}</strong> are erased everywhere, for ever:</Text>
      <ul className={classes.consequences}>
        <li>The client can place no more orders.</li>
        <li>Its orders and sums stay, without a name and without reasons of cancellations.</li>
        <li>Nobody can undo this.</li>
      </ul>
      <TextInput label="Type the name of the client to confirm" autoComplete="off" data-autofocus {...change.form.getInputProps('confirmation')} />
    </ChangeForm>
  );
}
