// Sends a mail for each placed order: an example of a program with a queue of its own, to copy. docs/events.md has the rules for readers.
//
// The transaction that records an event in the table `mails` also sends its mail. So an event is mailed once, however often it is
// delivered. SMTP takes part in no transaction: if the process or a connection fails between the two, the mail is sent again, with the
// same Message-ID.
//
// It needs `npm install @aws-sdk/client-sqs nodemailer pg`, and Node 22.18 or later to run without a compiler. It ends when the queue cannot
// be reached: then a supervisor starts it again.
import { DeleteMessageCommand, ReceiveMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { createTransport } from 'nodemailer';
import { Pool } from 'pg';

/** The attributes that this program needs. It ignores all others. */
interface Event {
  id: string;
  type: string;
  subject: string;
  sequence: string;
  data: unknown;
}

interface OrderPlaced {
  clientName: string;
  clientEmail: string;
  orderId: string;
  lines: { name: string; quantity: number }[];
}

// Only one of several deliveries inserts the row, also if they happen at the same time. All orders are events of clients, so the row
// needs no kind of subject.
const RECORD = 'INSERT INTO mails (subject, sequence) VALUES ($1, $2) ON CONFLICT DO NOTHING';
const TABLE = 'CREATE TABLE IF NOT EXISTS mails (subject text, sequence text, PRIMARY KEY (subject, sequence))';

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

// Only this program reads it. `projector queues create mails --topic orders` creates it.
const queue = { QueueUrl: setting('QUEUE_URL') };
const from = setting('FROM');
const sqs = new SQSClient();
const database = new Pool({ connectionString: setting('DATABASE_URL') });
database.on('error', (error) => console.error(`an idle connection failed: ${error}`));
const smtp = createTransport(setting('SMTP_URL'));

async function handle(body: string): Promise<void> {
  const event = JSON.parse(body) as Event;
  if (event.type !== 'orders.OrderPlaced.v1') return;
  const connection = await database.connect();
  try {
    await connection.query('BEGIN');
    const recorded = await connection.query(RECORD, [event.subject, event.sequence]);
    if (recorded.rowCount === 1) await send(event.id, event.data as OrderPlaced);
    await connection.query('COMMIT');
  } catch (error) {
    await connection.query('ROLLBACK');
    throw error;
  } finally {
    connection.release();
  }
}

async function send(eventId: string, order: OrderPlaced): Promise<void> {
  const lines = order.lines.map(({ quantity, name }) => `${quantity} x ${name}\n`).join('');
  await smtp.sendMail({
    from,
    to: { name: order.clientName, address: order.clientEmail },
    messageId: `<${eventId}@orders>`,
    subject: `Your order ${order.orderId}`,
    text: `Dear ${order.clientName},\n\nwe have received your order:\n\n${lines}`,
  });
}

await database.query(TABLE);
for (;;) {
  const received = await sqs.send(new ReceiveMessageCommand({ ...queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 5 }));
  for (const { Body, MessageId, ReceiptHandle } of received.Messages ?? []) {
    try {
      await handle(Body ?? '');
      await sqs.send(new DeleteMessageCommand({ ...queue, ReceiptHandle }));
    } catch (error) {
      // It is delivered again, and after some deliveries it moves to the dead-letter queue.
      console.error(`message ${MessageId} is not processed: ${error}`);
    }
  }
}
