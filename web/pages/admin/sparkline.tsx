import classes from './chart.module.css';

/** A line without axes, beside a figure that says the same in words. */
export function Sparkline({ values }: { values: number[] }) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const span = most - least || 1;
  const points = values.map((value, index) => `${(index / Math.max(1, values.length - 1)) * 100},${28 - ((value - least) / span) * 26}`);
  return (
    <svg viewBox="0 0 100 30" preserveAspectRatio="none" className={classes.sparkline} aria-hidden>
      {values.length > 1 && <polyline points={points.join(' ')} />}
    </svg>
  );
}
