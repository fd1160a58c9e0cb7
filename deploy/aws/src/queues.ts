// The queue and its dead-letter queue, as `projector queues create` makes them. A test compares both. Only a Lambda function needs a longer
// visibility timeout.

import * as iam from 'aws-cdk-lib/aws-iam';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Duration, RemovalPolicy } from 'aws-cdk-lib';
import { Construct } from 'constructs';

export class Queues extends Construct {
  readonly queue: sqs.Queue;
  readonly deadLetters: sqs.Queue;

  constructor(scope: Construct, id: string, visibilityTimeout = Duration.seconds(30)) {
    super(scope, id);
    const common = {
      visibilityTimeout,
      retentionPeriod: Duration.days(14),
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      // What is lost with a queue is in the event log of the database.
      removalPolicy: RemovalPolicy.DESTROY,
    };
    this.deadLetters = new sqs.Queue(this, 'DeadLetters', common);
    this.queue = new sqs.Queue(this, 'Queue', { ...common, deadLetterQueue: { queue: this.deadLetters, maxReceiveCount: 5 } });
  }

  /** For an api: whoever may send can forge an event, so nobody else may, except an operator. */
  grantPublish(to: iam.IGrantable): void {
    this.queue.grant(to, 'sqs:SendMessage', 'sqs:GetQueueAttributes');
  }

  grantConsume(to: iam.IGrantable): void {
    this.queue.grant(to, 'sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibility', 'sqs:GetQueueAttributes');
  }

  /** For a function: with its role, Lambda receives messages and deletes them. */
  grantTrigger(to: iam.IGrantable): void {
    this.queue.grant(to, 'sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:GetQueueAttributes');
  }

  /** For the metric of the number of dead letters. */
  grantCountDeadLetters(to: iam.IGrantable): void {
    this.deadLetters.grant(to, 'sqs:GetQueueUrl', 'sqs:GetQueueAttributes');
  }

  /** For an operator: lists dead letters, returns them to the queue, and deletes them. */
  grantOperate(to: iam.IGrantable): void {
    this.grantPublish(to);
    this.grantDeadLetters(to);
  }

  /** For whoever may send to the queue: reads, redrives and discards dead letters. */
  grantDeadLetters(to: iam.IGrantable): void {
    this.grantCountDeadLetters(to);
    this.deadLetters.grant(to, 'sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibility');
  }
}
