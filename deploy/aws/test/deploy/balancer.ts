// A load balancer with the health checks of the template: it sends a request to a target that is healthy, and does not retry.

import { Agent, type IncomingMessage, type ServerResponse, createServer, request } from 'node:http';
import { freePort } from './servers.js';

interface HealthCheck {
  readonly HealthCheckPath: string;
  readonly HealthCheckIntervalSeconds: number;
  readonly HealthyThresholdCount: number;
  readonly UnhealthyThresholdCount: number;
}

class Target {
  healthy = false;
  open = 0;
  /** Checks in a row with another result. */
  private changes = 0;

  constructor(readonly url: string) {}

  async check(check: HealthCheck): Promise<void> {
    const ok = await fetch(this.url + check.HealthCheckPath).then((response) => response.ok, () => false);
    this.changes = ok === this.healthy ? 0 : this.changes + 1;
    const threshold = ok ? check.HealthyThresholdCount : check.UnhealthyThresholdCount;
    if (this.changes >= threshold) [this.healthy, this.changes] = [ok, 0];
  }
}

export class Balancer {
  private readonly targets: Target[] = [];
  private readonly agent = new Agent({ keepAlive: true });
  private readonly timers: NodeJS.Timeout[] = [];
  private readonly server = createServer((from, to) => this.forward(from, to));

  private constructor(private readonly check: HealthCheck, readonly url: string) {}

  static async start(check: HealthCheck): Promise<Balancer> {
    const port = await freePort();
    const balancer = new Balancer(check, `http://127.0.0.1:${port}`);
    await new Promise<void>((listening) => balancer.server.listen(port, '127.0.0.1', listening));
    return balancer;
  }

  add(url: string): void {
    const target = new Target(url);
    this.targets.push(target);
    void target.check(this.check);
    this.timers.push(setInterval(() => void target.check(this.check), this.check.HealthCheckIntervalSeconds * 1000));
  }

  isHealthy(url: string): boolean {
    return this.targets.some((target) => target.url === url && target.healthy);
  }

  stop(): void {
    this.timers.forEach(clearInterval);
    this.agent.destroy();
    this.server.close();
    this.server.closeAllConnections();
  }

  private forward(from: IncomingMessage, to: ServerResponse): void {
    const [target] = this.targets.filter(({ healthy }) => healthy).sort((a, b) => a.open - b.open);
    if (target === undefined) return void to.writeHead(503).end('no target is healthy');
    target.open += 1;
    to.once('close', () => (target.open -= 1));
    const { method, headers, url } = from;
    const forwarded = request(target.url + url, { method, headers, agent: this.agent }, (response) => {
      to.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(to);
    });
    forwarded.on('error', (error) => to.writeHead(502).end(String(error)));
    from.pipe(forwarded);
  }
}
