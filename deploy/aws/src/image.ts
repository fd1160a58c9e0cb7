// The image with all programs: built from the Dockerfile of this repository, or one that exists.

import * as ecr from 'aws-cdk-lib/aws-ecr';
import * as assets from 'aws-cdk-lib/aws-ecr-assets';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Stack } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import type { Options } from './options.js';

/** From build/src. */
export const REPOSITORY = fileURLToPath(new URL('../../../..', import.meta.url));

export class ProgramImage extends Construct {
  readonly container: ecs.ContainerImage;
  /** For `docker run`. */
  readonly uri: string;

  constructor(scope: Construct, id: string, options: Pick<Options, 'image' | 'architecture'>) {
    super(scope, id);
    if (options.image !== undefined) {
      this.container = this.existing(options.image);
      this.uri = options.image;
      return;
    }
    const asset = new assets.DockerImageAsset(this, 'Build', {
      directory: REPOSITORY,
      // The Docker build has no directory .git. An image for each commit: it reports the commit in its metrics.
      buildArgs: { COMMIT: commit() },
      platform: options.architecture === 'arm64' ? assets.Platform.LINUX_ARM64 : assets.Platform.LINUX_AMD64,
    });
    this.container = ecs.ContainerImage.fromDockerImageAsset(asset);
    this.uri = asset.imageUri;
  }

  /** An image of ECR needs the right to pull it. */
  private existing(image: string): ecs.ContainerImage {
    const ofEcr = /^(\d+)\.dkr\.ecr\.([^.]+)\.amazonaws\.com(?:\.cn)?\/([^:@]+)(?:[:@](.+))?$/.exec(image);
    if (ofEcr === null) return ecs.ContainerImage.fromRegistry(image);
    const [, account, region, name, version] = ofEcr;
    const repositoryArn = Stack.of(this).formatArn({ service: 'ecr', resource: 'repository', resourceName: name, account, region });
    const repository = ecr.Repository.fromRepositoryAttributes(this, 'Repository', { repositoryArn, repositoryName: name });
    return ecs.ContainerImage.fromEcrRepository(repository, version);
  }
}

/** As scripts/build does outside of Docker. */
function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: REPOSITORY, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return 'unknown';
  }
}
