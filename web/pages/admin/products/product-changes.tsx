// Creating and changing a product, withdrawing it and offering it again.
import { Button, TextInput } from '@mantine/core';
import { useState } from 'react';
import { useQuery } from 'urql';
import {
  AdminCreateProductDocument, AdminProductsDocument, AdminUpdateProductDocument,
  type AdminCreateProductMutation, type AdminProductRowFragment, type UpdateProductInput,
} from '../../generated/graphql';
import { useFormat, type Money } from '../../shared/format';
import { ChangeForm, useChange, useChangeForm } from '../change';
import { editAmount, exampleOf, parseAmount } from '../parts/amount';

type Values = { name: string; price: string; sku: string };

/** `like` is an amount in the currency, if one is known. */
const rulesOf = (locale: string, like: string) => ({
  name: (name: string) => (name.trim() ? null : 'Enter a name.'),
  price: (price: string) => (parseAmount(price, locale) === undefined ? `Write an amount such as ${exampleOf(like, locale)}.` : null),
});

function Fields({ inputs, currencyCode, isSkuRequired = false }: {
  inputs: (path: keyof Values) => object;
  currencyCode: string | undefined;
  isSkuRequired?: boolean;
}) {
  return (
    <>
      <TextInput label="Name" autoComplete="off" maxLength={200} data-autofocus {...inputs('name')} />
      <TextInput label={currencyCode ? `Price (${currencyCode})` : 'Price'} inputMode="decimal" autoComplete="off" maxLength={40} {...inputs('price')} />
      <TextInput
        label="SKU"
        description={isSkuRequired ? 'A number or code of your own. It can be changed but not removed.' : 'A number or code of your own. It can be left out.'}
        autoComplete="off"
        maxLength={64}
        {...inputs('sku')}
      />
    </>
  );
}

type Created = NonNullable<AdminCreateProductMutation['createProduct']>;

export function CreateForm({ onDone }: { onDone: (payload: Created) => void }) {
  const { locale } = useFormat();
  const like = useKnownPrice();
  const change = useChangeForm({
    name: 'create product',
    document: AdminCreateProductDocument,
    payloadOf: ({ createProduct }) => createProduct,
    initialValues: { name: '', price: '', sku: '' },
    validate: rulesOf(locale, like?.amount ?? '0.00'),
    inputOf: ({ name, price, sku }: Values) => ({ name: name.trim(), price: parseAmount(price, locale)!, sku: sku.trim() || null }),
    onDone,
  });
  return (
    <ChangeForm change={change} submitLabel="Create the product">
      <Fields inputs={change.form.getInputProps} currencyCode={like?.currencyCode} />
    </ChangeForm>
  );
}

/** The price of any product, which has the currency of all of them. */
function useKnownPrice(): Money | undefined {
  const [{ data }] = useQuery({ query: AdminProductsDocument, variables: { first: 1 } });
  return data?.products?.nodes[0]?.price;
}

export function EditForm({ product, onDone }: { product: AdminProductRowFragment; onDone: (notice: string) => void }) {
  // The product as it was when the dialog was opened.
  const [{ id, name, price, sku }] = useState(product);
  const { locale } = useFormat();
  const change = useChangeForm({
    name: `update product ${id}`,
    document: AdminUpdateProductDocument,
    payloadOf: ({ updateProduct }) => updateProduct,
    initialValues: { name, price: editAmount(price.amount, locale), sku: sku ?? '' },
    validate: { ...rulesOf(locale, price.amount), sku: (text) => (sku && !text.trim() ? 'The SKU can be changed but not removed.' : null) },
    // What was not edited keeps the value that someone else may have given it meanwhile.
    inputOf: (values: Values): UpdateProductInput => {
      const now = { name: values.name.trim(), price: parseAmount(values.price, locale)!, sku: values.sku.trim() };
      return {
        id,
        ...(now.name !== name && { name: now.name }),
        ...(now.price !== price.amount && { price: now.price }),
        ...(now.sku !== (sku ?? '') && { sku: now.sku }),
      };
    },
    onDone: () => onDone('The product is changed. Existing orders keep their names and prices.'),
  });
  return (
    <ChangeForm change={change} submitLabel="Save">
      <Fields inputs={change.form.getInputProps} currencyCode={price.currencyCode} isSkuRequired={Boolean(sku)} />
    </ChangeForm>
  );
}

/** Withdraws a product, or offers it again. It needs no confirmation, because it can be undone. */
export function OfferButton({ product: { id, available }, onDone, onProblem }: {
  product: AdminProductRowFragment;
  onDone: (notice: string) => void;
  onProblem: (problem: string) => void;
}) {
  const { send, isSending } = useChange(`offer product ${id} ${!available}`, AdminUpdateProductDocument, ({ updateProduct }) => updateProduct);
  const submit = async () => {
    const outcome = await send({ id, available: !available });
    if (outcome.is === 'done') onDone(available ? 'The product is withdrawn. It can no longer be ordered.' : 'The product can be ordered again.');
    else onProblem(outcome.is === 'refused' ? outcome.errors.map(({ message }) => message).join(' ') : `${outcome.problem.title}. ${outcome.problem.message}`);
  };
  return <Button variant="default" loading={isSending} onClick={submit}>{available ? 'Withdraw' : 'Offer again'}</Button>;
}
