// The image with all programs: built from the Dockerfile of this repository, or one that exists.

import * as ecr from 'aws-cdk-lib/aws-ecr';
import * as assets from 'aws-cdk-lib/aws-ecr-assets';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import { fileURLToPath } from 'node:url';
import { Construct } from 'constructs';
import type { Options } from './options.js';

/** From build/src. */
const REPOSITORY = fileURLToPath(new URL('../../../..', import.meta.url));

export class ProgramImage extends Construct {
  readonly container: ecs.ContainerImage;
  /** For `docker run`. */
  readonly uri: string;

  constructor(scope: Construct, id: string, options: Options) {
    super(scope, id);
    if (options.image !== undefined) {
      this.container = this.existing(options.image);
      this.uri = options.image;
      return;
    }
    const asset = new assets.DockerImageAsset(this, 'Build', {
      directory: REPOSITORY,
      platform: options.architecture === 'arm64' ? assets.Platform.LINUX_ARM64 : assets.Platform.LINUX_AMD64,
    });
    this.container = ecs.ContainerImage.fromDockerImageAsset(asset);
    this.uri = asset.imageUri;
  }

  /** An image of ECR needs the right to pull it. */
  private existing(image: string): ecs.ContainerImage {
    const ofEcr = /^(\d+)\.dkr\.ecr\.([^.]+)\.amazonaws\.com\/([^:@]+)[:@](.+)$/.exec(image);
    if (ofEcr === null) return ecs.ContainerImage.fromRegistry(image);
    const [, account, region, name, version] = ofEcr;
    const repository = ecr.Repository.fromRepositoryArn(this, 'Repository', `arn:aws:ecr:${region}:${account}:repository/${name}`);
    return ecs.ContainerImage.fromEcrRepository(repository, version);
  }
}
