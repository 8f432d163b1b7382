"""The panels of the dashboard: title, description, unit and queries of each."""

from dataclasses import dataclass

HERE = 'job="$job", instance=~"$instance"'

# Grafana's names of units
SECONDS, FRACTION, BYTES, PER_SECOND = "s", "percentunit", "bytes", "cps"
NUMBER, YES_NO, NONE, CORES = "short", "bool_yes_no", "none", "none"
Queries = tuple[tuple[str, str], ...]  # PromQL with HERE in it, and how its series are called


@dataclass(frozen=True)
class Panel:
    """A plot over time, or with `is_figure` the last value alone."""

    title: str
    description: str
    unit: str
    queries: Queries
    is_figure: bool = False
    is_stacked: bool = False

    def expressions(self) -> list[str]:
        return [expression.replace("HERE", HERE) for expression, _ in self.queries]


def figure(title: str, description: str, unit: str, query: str, name: str) -> Panel:
    """The last value alone."""
    return Panel(title, description, unit, ((query, name),), is_figure=True)


def plot(
    title: str, description: str, unit: str, *queries: tuple[str, str], stacked: bool = False
) -> Panel:
    """A plot over time of one or more queries."""
    return Panel(title, description, unit, queries, is_stacked=stacked)


def by(labels: str, metric: str) -> str:
    """The rate of a counter, summed over all but these labels."""
    return f"sum by ({labels}) (rate({metric}{{HERE}}[$__rate_interval]))"


def quantiles(
    histogram: str, label: str = "", shares: tuple[str, ...] = ("0.5", "0.99")
) -> Queries:
    """Quantiles of a histogram in seconds, for each value of a label if one is given."""
    of = f"instance, {label}, le" if label else "instance, le"
    called = f"{{{{{label or 'instance'}}}}}"
    return tuple(
        (
            f"histogram_quantile({share}, {by(of, f'{histogram}_bucket')})",
            f"{called} p{float(share):.0%}".rstrip("%"),
        )
        for share in shares
    )


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it alive": (
        figure("Answers", "1: the last scrape succeeded.", YES_NO, "up{HERE}", "{{instance}}"),
        figure(
            "Ready",
            "1: warmed up, Redis serves, and all partitions of the process are served.",
            YES_NO,
            "qae_ready{HERE}",
            "{{instance}}",
        ),
        figure(
            "State",
            "The word that /health says: ok, idle, warming_up, standby, degraded or stopping.",
            NONE,
            "qae_state{HERE} == 1",
            "{{instance}} {{state}}",
        ),
        figure(
            "Risk",
            "ACTIVE, REDUCING (targets only shrink) or HALTED (flat, until a person's resume).",
            NONE,
            "qae_risk_state{HERE} == 1",
            "{{instance}} {{state}}",
        ),
        figure(
            "Mode",
            "The mode of the adaptive policy: DEFENSIVE, NORMAL or AGGRESSIVE.",
            NONE,
            "qae_policy_mode{HERE} == 1",
            "{{instance}} {{mode}}",
        ),
        figure(
            "Age of the newest bar",
            "Now less the close time of the newest processed bar. It means nothing "
            "with engine.clock = bars.",
            SECONDS,
            "time() - (qae_last_bar_close_timestamp_seconds{HERE} > 0)",
            "{{instance}}",
        ),
        plot(
            "Open breakers",
            "1 where a breaker of the risk brain is open.",
            NONE,
            ("qae_breaker_open{HERE}", "{{instance}} {{breaker}}"),
        ),
        plot(
            "Partitions owned, and starts",
            "1 where the process owns the partition; a new process shows as a step of its age.",
            NONE,
            ("qae_owner{HERE}", "{{instance}} partition {{partition}}"),
            ("changes(qae_process_start_time_seconds{HERE}[1h])", "{{instance}} starts in an hour"),
        ),
    ),
    "Bars and signals": (
        plot(
            "Bars",
            "Entries of the bar stream by what became of them, per second.",
            PER_SECOND,
            (by("outcome", "qae_bars_total"), "{{outcome}}"),
            stacked=True,
        ),
        plot(
            "Signals, and bars without one",
            "Signals by stance, silent bars by reason, per second: together all processed bars.",
            PER_SECOND,
            (by("stance", "qae_signals_total"), "{{stance}}"),
            (by("reason", "qae_silent_bars_total"), "silent: {{reason}}"),
            stacked=True,
        ),
        plot(
            "From bar to signal",
            "From the receipt of a bar out of Redis to the commit of its signal.",
            SECONDS,
            *quantiles("qae_bar_to_signal_seconds", shares=("0.5", "0.9", "0.99")),
        ),
        plot(
            "How far behind",
            "How much newer the newest entry of the stream is than the last committed one.",
            SECONDS,
            ("qae_lag_seconds{HERE}", "{{instance}}"),
        ),
        plot(
            "Entries not read yet",
            "Counted up to 10,000 for each partition.",
            NUMBER,
            ("qae_lag_bars{HERE}", "{{instance}}"),
        ),
        plot(
            "Series whose bars have stopped",
            "Without a bar for engine.stale_intervals of their own intervals.",
            NUMBER,
            ("qae_stale_series{HERE}", "{{instance}}"),
        ),
        plot(
            "Dead letters",
            "Refused entries by reason, per second; each is in the stream of dead letters.",
            PER_SECOND,
            (by("reason", "qae_dead_letters_total") + " > 0", "{{reason}}"),
            stacked=True,
        ),
        plot(
            "Disorder",
            "Holes, late, revised and filled bars, and signals that took the place of an earlier "
            "one, per second.",
            PER_SECOND,
            (by("instance", "qae_gaps_total"), "{{instance}} holes"),
            (by("instance", "qae_late_bars_total"), "{{instance}} late"),
            (by("instance", "qae_revised_bars_total"), "{{instance}} revised"),
            (by("instance", "qae_filled_bars_total"), "{{instance}} filled"),
            (by("instance", "qae_amended_signals_total"), "{{instance}} amended"),
        ),
    ),
    "Agents": (
        plot(
            "Effective votes",
            "How many equal agents the forecast of the last bar is worth.",
            NUMBER,
            ("qae_effective_votes{HERE}", "{{instance}}"),
        ),
        plot(
            "Trust",
            "Share of each agent in the last forecast.",
            FRACTION,
            ("qae_trust{HERE}", "{{instance}} {{agent}}"),
            stacked=True,
        ),
        plot(
            "Inference",
            "One batch of one agent, in its worker.",
            SECONDS,
            *quantiles("qae_inference_seconds", "agent"),
        ),
        plot(
            "Abstentions",
            "Bars that an agent did not answer, by reason, per second.",
            PER_SECOND,
            (by("agent, reason", "qae_abstentions_total") + " > 0", "{{agent}}: {{reason}}"),
            stacked=True,
        ),
        plot(
            "Brier score less that of the base rate",
            "Mean of (p − y)² of settled predictions, less the same of the base rate on the same "
            "bars. Below 0 is skill.",
            NUMBER,
            ("qae_brier{HERE} - qae_base_rate_brier{HERE}", "{{instance}} {{agent}}"),
        ),
        plot(
            "Brier score",
            "Mean of (p − y)² of settled predictions; `ensemble` is the forecast. 0.25 is a coin.",
            NUMBER,
            ("qae_brier{HERE}", "{{instance}} {{agent}}"),
        ),
        plot(
            "Bias",
            "Mean of p − y of settled predictions: above 0 it says up too often.",
            NUMBER,
            ("qae_bias{HERE}", "{{instance}} {{agent}}"),
        ),
        plot(
            "Evidence against an agent",
            "The largest of its tests, over the threshold of an alarm: it alarms at 1.",
            NUMBER,
            ("max by (instance, agent) (qae_drift_evidence{HERE})", "{{instance}} {{agent}}"),
        ),
        plot(
            "Standing",
            "1 for what the supervisor thinks of an agent; ok is not shown.",
            NONE,
            ('qae_agent_standing{HERE, state!="ok"} == 1', "{{instance}} {{agent}} {{state}}"),
        ),
        plot(
            "Settled predictions",
            "Predictions that got an outcome, and those that can have none, per second.",
            PER_SECOND,
            (by("instance", "qae_settled_predictions_total"), "{{instance}} settled"),
            (by("reason", "qae_void_predictions_total"), "void: {{reason}}"),
        ),
        plot(
            "Clamped inputs",
            "Input values outside of the training range, per second.",
            PER_SECOND,
            ("deriv(qae_clamped_values{HERE}[5m])", "{{instance}} {{agent}}"),
        ),
    ),
    "Redis and state": (
        plot(
            "Redis failures",
            "Commands that were not served, by kind, per second.",
            PER_SECOND,
            (by("instance, kind", "qae_redis_failures_total") + " > 0", "{{instance}} {{kind}}"),
            stacked=True,
        ),
        plot(
            "What must not happen",
            "In the last hour: commits refused, partitions lost, positions trimmed, states lost.",
            NUMBER,
            ("increase(qae_commit_conflicts_total{HERE}[1h])", "{{instance}} conflicts"),
            ("increase(qae_ownership_lost_total{HERE}[1h])", "{{instance}} ownership lost"),
            ("increase(qae_position_trimmed_total{HERE}[1h])", "{{instance}} position trimmed"),
            ("increase(qae_state_lost_total{HERE}[1h])", "{{instance}} state lost"),
        ),
        plot(
            "Snapshots in an hour",
            "Snapshots of the state saved, and those that failed or were of no use.",
            NUMBER,
            ("increase(qae_snapshots_total{HERE}[1h])", "{{instance}} saved"),
            ("increase(qae_snapshot_failures_total{HERE}[1h])", "{{instance}} failed: {{kind}}"),
        ),
        plot(
            "Size of the snapshot",
            "Bytes of the newest one, over all its parts.",
            BYTES,
            ("qae_snapshot_bytes{HERE}", "{{instance}}"),
        ),
        plot(
            "Bridged messages",
            "Copied from the channel of bars into the stream, per second.",
            PER_SECOND,
            (by("instance", "qae_bridged_messages_total"), "{{instance}}"),
        ),
    ),
    "The process": (
        plot(
            "Stages of a round",
            "The 99th percentile of each stage.",
            SECONDS,
            *quantiles("qae_stage_seconds", "stage", ("0.99",)),
        ),
        plot(
            "CPU",
            "Cores in use by the process (agents.budget_cores bounds them), and agent threads at "
            "work.",
            CORES,
            (by("instance", "qae_process_cpu_seconds_total"), "{{instance}} cores"),
            ("qae_pool_busy_workers{HERE}", "{{instance}} busy workers"),
        ),
        plot(
            "Rest",
            "Share of the time for which rounds were put off, so that the CPU budget is kept.",
            FRACTION,
            (by("instance", "qae_rest_seconds_total"), "{{instance}}"),
        ),
        plot(
            "Lag of the event loop",
            "By how much the loop came too late, last measured.",
            SECONDS,
            ("qae_event_loop_lag_seconds{HERE}", "{{instance}}"),
        ),
        plot(
            "Memory",
            "Resident memory of the process.",
            BYTES,
            ("qae_process_resident_memory_bytes{HERE}", "{{instance}}"),
        ),
        plot(
            "Open files",
            "File descriptors and sockets of the process.",
            NUMBER,
            ("qae_process_open_fds{HERE}", "{{instance}}"),
        ),
        plot(
            "Log lines not written",
            "In the last hour: held back since too many were alike, and dropped since the log was "
            "too slow.",
            NUMBER,
            (
                "sum by (instance, event) (increase(qae_log_lines_suppressed_total{HERE}[1h]))",
                "{{instance}} held back: {{event}}",
            ),
            ("increase(qae_log_records_dropped{HERE}[1h])", "{{instance}} dropped"),
        ),
        plot(
            "What runs",
            "Version, build and configuration.",
            NONE,
            ("qae_build_info{HERE}", "{{instance}} {{version}}+{{build}} {{config}}"),
        ),
    ),
}
