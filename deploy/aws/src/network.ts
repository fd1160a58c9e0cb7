// The network: public subnets for the load balancer, private ones for programs, and isolated ones for stores.

import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as logs from 'aws-cdk-lib/aws-logs';
import { RemovalPolicy } from 'aws-cdk-lib';
import { Construct } from 'constructs';

const ADDRESSES = '10.0.0.0/16';
export const PROGRAMS = { subnetGroupName: 'Programs' };
export const STORES = { subnetGroupName: 'Stores' };

export class Network extends Construct {
  readonly vpc: ec2.Vpc;

  constructor(scope: Construct, id: string, natGateways: number) {
    super(scope, id);
    this.vpc = new ec2.Vpc(this, 'Vpc', {
      ipAddresses: ec2.IpAddresses.cidr(ADDRESSES),
      maxAzs: 2,
      natGateways,
      subnetConfiguration: [
        { name: 'Public', subnetType: ec2.SubnetType.PUBLIC, mapPublicIpOnLaunch: false },
        { name: PROGRAMS.subnetGroupName, subnetType: ec2.SubnetType.PRIVATE_WITH_EGRESS },
        { name: STORES.subnetGroupName, subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
      ],
      // Layers of images come from S3. This endpoint costs nothing.
      gatewayEndpoints: { S3: { service: ec2.GatewayVpcEndpointAwsService.S3 } },
    });
    // Events cross no NAT gateway, which costs more per byte, and whose outage would stop them.
    const endpoint = this.vpc.addInterfaceEndpoint('Sqs', { service: ec2.InterfaceVpcEndpointAwsService.SQS, subnets: PROGRAMS, open: false });
    endpoint.connections.allowDefaultPortFrom(ec2.Peer.ipv4(ADDRESSES), 'programs');

    const rejected = new logs.LogGroup(this, 'Rejected', { retention: logs.RetentionDays.ONE_MONTH, removalPolicy: RemovalPolicy.DESTROY });
    this.vpc.addFlowLog('RejectedTraffic', {
      destination: ec2.FlowLogDestination.toCloudWatchLogs(rejected),
      trafficType: ec2.FlowLogTrafficType.REJECT,
    });
  }
}
