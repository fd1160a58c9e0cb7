// The AWS CDK app, which `cdk` runs.

import { App, Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';
import { OptionError, readOptions } from './options.js';
import { OrderService } from './stack.js';

const app = new App();
Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
try {
  const options = readOptions(app.node);
  // Without an account and a region: the template is the same in each of them.
  new OrderService(app, options.name, options);
} catch (error) {
  if (!(error instanceof OptionError)) throw error;
  console.error(error.message);
  process.exit(1);
}
