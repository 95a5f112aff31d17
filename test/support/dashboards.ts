/**
 * The Grafana dashboards as code, in Grafana's own types: `make docs` writes helm/pisa-serve/dashboards from here.
 * Two pages: how the service does for its users, and what its devices do and cost.
 */
import {
  StackingConfigBuilder,
  StackingMode,
  VizLegendOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common';
import {
  type Dashboard,
  DashboardBuilder,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  TextBoxVariableBuilder,
  VariableRefresh,
} from '@grafana/grafana-foundation-sdk/dashboard';
import { DataqueryBuilder } from '@grafana/grafana-foundation-sdk/prometheus';
import { PanelBuilder as StatPanel } from '@grafana/grafana-foundation-sdk/stat';
import { PanelBuilder as TimeseriesPanel } from '@grafana/grafana-foundation-sdk/timeseries';

const datasource = { type: 'prometheus', uid: '$datasource' };
/** The namespaces that are looked at; without Kubernetes there is none, which `.*` matches too. */
const ns = 'namespace=~"$namespace"';

interface Query {
  expr: string;
  /** Legend, with {{label}}. */
  name: string;
}

interface PanelOptions {
  unit: string;
  description: string;
  queries: Query[];
  /** Of 24 columns. */
  span?: number;
  stacked?: true;
}

const legend = new VizLegendOptionsBuilder().showLegend(true);

function targets(queries: readonly Query[]): DataqueryBuilder[] {
  return queries.map(({ expr, name }, index) =>
    new DataqueryBuilder()
      .datasource(datasource)
      .expr(expr)
      .legendFormat(name)
      .range()
      .refId(String.fromCharCode(65 + index)),
  );
}

function chart(title: string, options: PanelOptions): TimeseriesPanel {
  const { unit, description, queries, span = 8, stacked } = options;
  const stacking = new StackingConfigBuilder().mode(
    stacked ? StackingMode.Normal : StackingMode.None,
  );
  return new TimeseriesPanel()
    .title(title)
    .description(description)
    .datasource(datasource)
    .unit(unit)
    .min(0)
    .height(8)
    .span(span)
    .legend(legend)
    .fillOpacity(stacked ? 40 : 5)
    .stacking(stacking)
    .targets(targets(queries));
}

function figure(title: string, options: Omit<PanelOptions, 'stacked'>): StatPanel {
  const { unit, description, queries, span = 6 } = options;
  return new StatPanel()
    .title(title)
    .description(description)
    .datasource(datasource)
    .unit(unit)
    .height(4)
    .span(span)
    .targets(targets(queries));
}

function page(title: string, uid: string, description: string): DashboardBuilder {
  return new DashboardBuilder(title)
    .uid(uid)
    .description(description)
    .tags(['pisa-serve'])
    .timezone('browser')
    .refresh('30s')
    .time({ from: 'now-3h', to: 'now' })
    .withVariable(
      new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus'),
    )
    .withVariable(
      new QueryVariableBuilder('namespace')
        .label('Namespace')
        .datasource(datasource)
        .query('label_values(pisa_queue_jobs, namespace)')
        .refresh(VariableRefresh.OnTimeRangeChanged)
        .multi(true)
        .includeAll(true)
        .allValue('.*')
        .current({ selected: true, text: ['All'], value: ['$__all'] }),
    );
}

const quantile = (q: number, metric: string, by: string): string =>
  `histogram_quantile(${q}, sum by (${by}, le) (rate(${metric}_bucket{${ns}}[$__rate_interval])))`;

function service(): DashboardBuilder {
  return page(
    'pisa-serve: service',
    'pisa-serve-service',
    'What clients see: waits, latency by stage, failures, webhooks, and the Redis behind it.',
  )
    .withPanel(
      figure('Waiting', {
        unit: 'short',
        description: 'Jobs that wait for a device.',
        queries: [{ expr: `max(pisa_queue_jobs{${ns},state="queued"})`, name: 'waiting' }],
      }),
    )
    .withPanel(
      figure('Ready workers', {
        unit: 'short',
        description: 'Workers with a device that takes jobs.',
        queries: [{ expr: `max(pisa_workers{${ns},state="ready"})`, name: 'ready' }],
      }),
    )
    .withPanel(
      figure('Start within 30 s', {
        unit: 'percentunit',
        description:
          'Share of the interactive jobs of the last hour that started in time. The objective is 99 %.',
        queries: [
          {
            // As in helm/pisa-serve/rules/recording.yaml: the chart puts its target in the place of 30, in the title too.
            expr: `sum(rate(pisa_queue_wait_seconds_bucket{${ns},priority="interactive",le=~"30([.]0)?"}[1h])) / sum(rate(pisa_queue_wait_seconds_count{${ns},priority="interactive"}[1h]))`,
            name: 'in time',
          },
        ],
      }),
    )
    .withPanel(
      figure('Images a minute', {
        unit: 'short',
        description: 'Jobs that succeeded.',
        queries: [
          {
            expr: `60 * sum(rate(pisa_jobs_total{${ns},status="succeeded"}[$__rate_interval]))`,
            name: 'images',
          },
        ],
      }),
    )
    .withRow(new RowBuilder('Queue'))
    .withPanel(
      chart('Jobs in the queue', {
        unit: 'short',
        description: 'Waiting (also between two attempts) and in process. Every API says the same.',
        queries: [{ expr: `max by (state) (pisa_queue_jobs{${ns}})`, name: '{{state}}' }],
        stacked: true,
      }),
    )
    .withPanel(
      chart('Wait for a device', {
        unit: 's',
        description: 'From accepted to started, of jobs that succeeded.',
        queries: [
          { expr: quantile(0.5, 'pisa_queue_wait_seconds', 'priority'), name: 'p50, {{priority}}' },
          {
            expr: quantile(0.95, 'pisa_queue_wait_seconds', 'priority'),
            name: 'p95, {{priority}}',
          },
          {
            expr: quantile(0.99, 'pisa_queue_wait_seconds', 'priority'),
            name: 'p99, {{priority}}',
          },
        ],
      }),
    )
    .withPanel(
      chart('The next job has waited', {
        unit: 's',
        description: 'Grows while nobody takes jobs of that priority.',
        queries: [
          {
            expr: `max by (priority) (pisa_queue_oldest_wait_seconds{${ns}})`,
            name: '{{priority}}',
          },
        ],
      }),
    )
    .withRow(new RowBuilder('Latency'))
    .withPanel(
      chart('Time of a job by stage', {
        unit: 's',
        description: 'Mean time of each stage; together, the mean time of a job in the pipeline.',
        queries: [
          {
            expr: `sum by (stage) (rate(pisa_stage_duration_seconds_sum{${ns}}[$__rate_interval])) / sum by (stage) (rate(pisa_stage_duration_seconds_count{${ns}}[$__rate_interval]) > 0)`,
            name: '{{stage}}',
          },
        ],
        stacked: true,
      }),
    )
    .withPanel(
      chart('p95 by stage', {
        unit: 's',
        description: 'Of all models and modes.',
        queries: [
          { expr: quantile(0.95, 'pisa_stage_duration_seconds', 'stage'), name: '{{stage}}' },
        ],
      }),
    )
    .withPanel(
      chart('From accepted to finished', {
        unit: 's',
        description: 'Waiting and retries included, by UNet evaluations that the dials needed.',
        queries: [
          { expr: quantile(0.95, 'pisa_job_duration_seconds', 'mode'), name: 'p95, {{mode}}' },
        ],
      }),
    )
    .withRow(new RowBuilder('Outcomes'))
    .withPanel(
      chart('Jobs by outcome', {
        unit: 'reqps',
        description: 'Final statuses.',
        queries: [
          {
            expr: `sum by (status) (rate(pisa_jobs_total{${ns}}[$__rate_interval]))`,
            name: '{{status}}',
          },
        ],
        stacked: true,
      }),
    )
    .withPanel(
      chart('Failures by code', {
        unit: 'reqps',
        description: 'docs/errors.md says what each code means.',
        queries: [
          {
            expr: `sum by (code) (rate(pisa_jobs_total{${ns},status="failed"}[$__rate_interval]))`,
            name: '{{code}}',
          },
        ],
      }),
    )
    .withPanel(
      chart('HTTP answers', {
        unit: 'reqps',
        description: 'By route and status, without probes.',
        queries: [
          {
            expr: `sum by (route, status) (rate(pisa_http_request_duration_seconds_count{${ns},route!~"/healthz|/readyz|/metrics"}[$__rate_interval]))`,
            name: '{{route}} {{status}}',
          },
        ],
      }),
    )
    .withRow(new RowBuilder('Webhooks and Redis'))
    .withPanel(
      chart('Webhook attempts', {
        unit: 'reqps',
        description: 'By outcome.',
        queries: [
          {
            expr: `sum by (outcome) (rate(pisa_webhook_attempts_total{${ns}}[$__rate_interval]))`,
            name: '{{outcome}}',
          },
        ],
      }),
    )
    .withPanel(
      chart('Webhooks not delivered', {
        unit: 'short',
        description: 'Of ended jobs; those of receivers that are down wait for their next attempt.',
        queries: [{ expr: `max(pisa_webhooks_pending{${ns}})`, name: 'pending' }],
      }),
    )
    .withPanel(
      chart('Memory of Redis', {
        unit: 'bytes',
        description: 'Used, and the limit if there is one.',
        queries: [
          { expr: `max(pisa_redis_memory_used_bytes{${ns}})`, name: 'used' },
          { expr: `max(pisa_redis_memory_max_bytes{${ns}}) > 0`, name: 'limit' },
        ],
      }),
    );
}

const succeededPerHour = `(3600 * sum(rate(pisa_jobs_total{${ns},status="succeeded"}[$__rate_interval])) > 0)`;

function devices(): DashboardBuilder {
  return page(
    'pisa-serve: devices and cost',
    'pisa-serve-devices',
    'What the devices do, and what an image costs at a price for each device-hour.',
  )
    .withVariable(
      new TextBoxVariableBuilder('price')
        .label('Price of a device-hour')
        .defaultValue('0.50')
        .current({ selected: true, text: '0.50', value: '0.50' }),
    )
    .withPanel(
      figure('Devices up', {
        unit: 'short',
        description: 'Warmed up and taking jobs.',
        queries: [{ expr: `sum(pisa_device_up{${ns}})`, name: 'up' }],
        span: 8,
      }),
    )
    .withPanel(
      figure('Cost of an image', {
        unit: 'none',
        description: 'In the currency of the price, idle devices included.',
        queries: [
          { expr: `$price * sum(pisa_device_up{${ns}}) / ${succeededPerHour}`, name: 'an image' },
        ],
        span: 8,
      }),
    )
    .withPanel(
      figure('Cost of a day', {
        unit: 'none',
        description: 'If as many devices stay up.',
        queries: [{ expr: `24 * $price * sum(pisa_device_up{${ns}})`, name: 'a day' }],
        span: 8,
      }),
    )
    .withRow(new RowBuilder('Devices'))
    .withPanel(
      chart('Busy', {
        unit: 'percentunit',
        description: 'Share of the time in which a device had a job.',
        queries: [
          {
            expr: `rate(pisa_device_busy_seconds_total{${ns}}[$__rate_interval])`,
            name: '{{instance}} {{device}}',
          },
        ],
      }),
    )
    .withPanel(
      chart('Jobs in a device', {
        unit: 'short',
        description: 'Up to JOBS_PER_DEVICE.',
        queries: [{ expr: `pisa_device_jobs{${ns}}`, name: '{{instance}} {{device}}' }],
      }),
    )
    .withPanel(
      chart('Resident memory', {
        unit: 'bytes',
        description: 'Of each device process. Above DEVICE_MAX_RSS_MEGABYTES it is replaced.',
        queries: [
          { expr: `pisa_device_resident_memory_bytes{${ns}}`, name: '{{instance}} {{device}}' },
        ],
      }),
    )
    .withPanel(
      chart('Processes replaced', {
        unit: 'short',
        description: 'In the last hour, by reason.',
        queries: [
          {
            expr: `sum by (device, reason) (increase(pisa_device_restarts_total{${ns}}[1h]))`,
            name: '{{device}} {{reason}}',
          },
        ],
      }),
    )
    .withPanel(
      chart('Attempts lost', {
        unit: 'short',
        description: 'Jobs that had to run again, in the last hour, by reason.',
        queries: [
          {
            expr: `sum by (reason) (increase(pisa_job_attempts_lost_total{${ns}}[1h]))`,
            name: '{{reason}}',
          },
        ],
      }),
    )
    .withPanel(
      chart('Event-loop lag of the supervisors and APIs', {
        unit: 's',
        description: 'p99. Both hold locks and connections: they must never be busy.',
        queries: [{ expr: `nodejs_eventloop_lag_p99_seconds{${ns}}`, name: '{{instance}}' }],
      }),
    )
    .withRow(new RowBuilder('Cost'))
    .withPanel(
      chart('Cost of 1,000 images', {
        unit: 'none',
        description:
          'Of all devices that are up, and of the time in which they had jobs: between them lies idleness.',
        queries: [
          {
            expr: `1000 * $price * sum(pisa_device_up{${ns}}) / ${succeededPerHour}`,
            name: 'all devices that are up',
          },
          {
            expr: `1000 * $price * sum(rate(pisa_device_busy_seconds_total{${ns}}[$__rate_interval])) / ${succeededPerHour}`,
            name: 'busy time only',
          },
        ],
        span: 12,
      }),
    )
    .withPanel(
      chart('Device time of an image', {
        unit: 's',
        description: 'Mean time in the device process, by model and evaluations.',
        queries: [
          {
            expr: `sum by (model, mode) (rate(pisa_processing_duration_seconds_sum{${ns}}[$__rate_interval])) / sum by (model, mode) (rate(pisa_processing_duration_seconds_count{${ns}}[$__rate_interval]) > 0)`,
            name: '{{model}} {{mode}}',
          },
        ],
        span: 12,
      }),
    );
}

/** By the name of its file in helm/pisa-serve/dashboards. */
export const dashboards: Record<string, Dashboard> = {
  'service.json': service().build(),
  'devices-and-cost.json': devices().build(),
};
