// The running stack: where each adapter is, what waits and why, and how fast it answers.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError, get } from "./api";
import { Chart, type Line } from "./chart";
import { compact, hue, percent, seconds, short } from "./format";
import { History } from "./history";
import { usePolling, useSession } from "./hooks";
import { Empty, Fault, Model, Placeholder, Tag } from "./parts";
import type { Adapter, Live, Replica, Usage } from "./types";

const PERIOD_MS = 1500;
const RECENT_S = 60;

// It outlives a look at another page, so that the lines go on.
const history = new History();

export function LivePage() {
  const session = useSession();
  const [state, set] = useState<Live | null>(history.last ?? null);
  const [error, setError] = useState<unknown>(null);
  usePolling(async () => {
    if (!session.metrics) return;
    try {
      const found = await get<Live>("/console/api/live");
      history.add(found);
      set(found);
      setError(null);
    } catch (wrong) {
      setError(wrong);
    }
  }, PERIOD_MS);

  if (!session.metrics) {
    return (
      <Empty title="This key may not read the metrics">
        <p class="muted">
          The admin key may, and one made with <code>learnware-serving keys add NAME --metrics</code>.
        </p>
      </Empty>
    );
  }
  return (
    <>
      <div class="head">
        <h1>Live</h1>
        <p class="muted" aria-live="off">
          {state && summary(state)}
        </p>
      </div>
      {error !== null && error instanceof ApiError && <Fault error={error} />}
      {!state && !error && <Placeholder rows={8} />}
      {state && (
        <div class={`live-page ${error ? "stale" : ""}`}>
          {state.replicas.map((one) => (
            <ReplicaView key={one.id} replica={one} />
          ))}
          {state.replicas.length === 0 && <Empty title="No engine replica answers" />}
          <Charts state={state} />
          <div class="columns">
            <UsageTable title="Learnwares" of={state.learnwares} part={(one) => one.learnwares} base={session.base} models />
            <UsageTable title="Tenants" of={state.tenants} part={(one) => one.tenants} />
            <Reasons state={state} />
          </div>
        </div>
      )}
    </>
  );
}

function summary(state: Live): string {
  const running = state.replicas.reduce((sum, one) => sum + one.running, 0);
  const waiting = state.replicas.reduce((sum, one) => sum + waits(one), 0);
  const replicas = `${state.replicas.length} ${state.replicas.length === 1 ? "replica" : "replicas"}`;
  return `${replicas} · ${running} running · ${waiting} waiting`;
}

const waits = (one: Replica): number =>
  Object.keys(one.waiting).length ? Object.values(one.waiting).reduce((sum, count) => sum + count, 0) : one.waiting_in_engine;

const WAITING: Record<string, string> = {
  host_memory: "adapter to host memory",
  slot: "slot",
  draining: "adapter that drains",
  seat: "seat in the batch",
  parked: "grammar",
};
const inWords = (reason: string): string => WAITING[reason] ?? reason.replaceAll("_", " ");

function Charts({ state }: { state: Live }) {
  const { times } = history;
  const reasons = [...new Set(history.states.flatMap((one) => one.replicas.flatMap((replica) => Object.keys(replica.waiting))))].sort();
  const waiting: Line[] = reasons.slice(0, 6).map((reason, place) => ({
    name: inWords(reason),
    colour: place + 1,
    values: history.values((one) => one.replicas.reduce((sum, replica) => sum + (replica.waiting[reason] ?? 0), 0)),
  }));
  const tokens = (kind: "prompt" | "generated") => (one: Live) => one.replicas.reduce((sum, replica) => sum + replica.tokens[kind], 0);
  const refused = (one: Live) => one.routers.reduce((sum, router) => sum + Object.values(router.refused).reduce((all, count) => all + count, 0), 0);
  const hasEdge = Object.keys(state.answers).length > 0;
  return (
    <div class="charts">
      <Chart
        title="Tokens a second"
        unit={compact}
        times={times}
        lines={[
          { name: "generated", colour: 1, values: history.rates(tokens("generated")) },
          { name: "prompts", colour: 2, values: history.rates(tokens("prompt")) },
        ]}
      />
      <Chart
        title="Time to first token"
        unit={seconds}
        times={times}
        lines={[
          { name: "median", colour: 1, values: history.quantiles(0.5) },
          { name: "p95", colour: 3, values: history.quantiles(0.95) },
        ]}
      />
      <Chart title="Waiting, by what for" unit={compact} times={times} lines={waiting} />
      <Chart
        title="Answers and refusals a second"
        unit={(value) => (value < 10 ? value.toFixed(1) : compact(value))}
        times={times}
        lines={[
          ...(hasEdge
            ? [
                { name: "answered", colour: 1, values: history.rates((one) => one.answers["2xx"] ?? 0) },
                { name: "refused (4xx)", colour: 3, values: history.rates((one) => one.answers["4xx"] ?? 0) },
                { name: "failed (5xx)", colour: 4, values: history.rates((one) => one.answers["5xx"] ?? 0) },
              ]
            : []),
          { name: "by routers", colour: 5, values: history.rates(refused) },
        ]}
      />
    </div>
  );
}

/** One replica: the slots of its device, what its host memory holds, and what waits. */
function ReplicaView({ replica }: { replica: Replica }) {
  const cells = useCells(replica);
  const box = useMoves();
  const waiting = Object.entries(replica.waiting).filter(([, number]) => number > 0);
  const hidden = replica.counts.host - replica.host.length;
  return (
    <section class="replica" aria-label={`Replica ${short(replica.id)}`} ref={box}>
      <header>
        <h2>
          Replica <span class="mono">{short(replica.id)}</span>
        </h2>
        {!replica.answers && <Tag tone="bad">does not answer</Tag>}
        <dl class="gauges">
          <div>
            <dt>running</dt>
            <dd>{replica.running}</dd>
          </div>
          <div>
            <dt>waiting</dt>
            <dd>{waits(replica)}</dd>
          </div>
          <div>
            <dt>KV cache</dt>
            <dd>{percent(replica.kv_cache)}</dd>
          </div>
          <div>
            <dt>being read</dt>
            <dd>{replica.being_read}</dd>
          </div>
        </dl>
      </header>
      <div class="tiers-picture">
        <h3>
          Device <span class="muted">{`${replica.device.length} of ${replica.slots} slots`}</span>
        </h3>
        <ul class="slots">
          {cells.map((adapter, place) =>
            adapter ? (
              <AdapterCell key={nameOf(adapter)} adapter={adapter} />
            ) : (
              <li key={`free-${place}`} class="cell free">
                <span class="unseen">free</span>
              </li>
            ),
          )}
        </ul>
        <h3>
          Host memory <span class="muted">{replica.counts.host}</span>
        </h3>
        <ul class="in-host">
          {replica.host.map((adapter) => (
            <AdapterCell key={nameOf(adapter)} adapter={adapter} />
          ))}
          {hidden > 0 && <li class="muted">and {hidden} more</li>}
          {replica.counts.host === 0 && <li class="muted">none</li>}
        </ul>
        <h3>
          On disk alone <span class="muted">{replica.counts.disk}</span>
        </h3>
      </div>
      <p class="waiting" aria-live="off">
        {waiting.length === 0
          ? "Nothing waits."
          : `Waiting for: ${waiting.map(([reason, number]) => `${inWords(reason)} (${number})`).join(", ")}`}
      </p>
    </section>
  );
}

const nameOf = (adapter: Adapter): string => `${adapter.learnware}@${adapter.version}`;

function AdapterCell({ adapter }: { adapter: Adapter }) {
  const asked = history.recent((one) => one.learnwares[adapter.learnware]?.requests ?? 0, 6);
  return (
    <li class={`cell ${asked > 0 ? "active" : ""}`} data-adapter={nameOf(adapter)} style={{ "--hue": String(hue(adapter.learnware)) }}>
      <a href={`#/market/${encodeURIComponent(adapter.learnware)}`} title={nameOf(adapter)}>
        <bdi>{adapter.learnware}</bdi>
      </a>
    </li>
  );
}

/** The adapters of the device by cell. An adapter keeps its cell for as long as it stays, so that the picture rests. */
function useCells(replica: Replica): (Adapter | null)[] {
  const places = useRef<(string | null)[]>([]);
  const byName = new Map(replica.device.map((one) => [nameOf(one), one]));
  const size = Math.max(replica.slots, replica.device.length);
  const kept = Array.from({ length: size }, (_, place) => {
    const name = places.current[place] ?? null;
    return name !== null && byName.has(name) ? name : null;
  });
  for (const name of byName.keys()) if (!kept.includes(name)) kept[kept.indexOf(null)] = name;
  places.current = kept;
  return kept.map((name) => (name === null ? null : byName.get(name)!));
}

/** Lets adapters glide from where they were to where they are, unless the user wants less motion. */
function useMoves() {
  const box = useRef<HTMLElement>(null);
  const before = useRef(new Map<string, { x: number; y: number }>());
  useLayoutEffect(() => {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const origin = box.current!.getBoundingClientRect();
    const now = new Map<string, { x: number; y: number }>();
    for (const cell of box.current!.querySelectorAll<HTMLElement>("[data-adapter]")) {
      const name = cell.dataset.adapter!;
      const { x, y } = cell.getBoundingClientRect();
      const at = { x: x - origin.x, y: y - origin.y };
      const was = before.current.get(name);
      if (!calm && was && (Math.abs(was.x - at.x) > 1 || Math.abs(was.y - at.y) > 1)) {
        cell.animate([{ transform: `translate(${was.x - at.x}px, ${was.y - at.y}px)` }, { transform: "none" }], {
          duration: 450,
          easing: "cubic-bezier(.3, 0, .2, 1)",
        });
      } else if (!calm && !was && before.current.size > 0) {
        cell.animate([{ opacity: 0, transform: "scale(.9)" }, { opacity: 1, transform: "none" }], { duration: 300, easing: "ease-out" });
      }
      now.set(name, at);
    }
    before.current = now;
  });
  return box;
}

function UsageTable({
  title,
  of,
  part,
  base,
  models = false,
}: {
  title: string;
  of: Record<string, Usage>;
  part: (state: Live) => Record<string, Usage>;
  base?: string;
  models?: boolean;
}) {
  const rows = Object.entries(of)
    .map(([name, usage]) => ({
      name,
      usage,
      rate: history.recent((state) => part(state)[name]?.tokens.generated ?? 0, RECENT_S) / RECENT_S,
    }))
    .sort((one, other) => other.rate - one.rate || other.usage.requests - one.usage.requests)
    .slice(0, 12);
  return (
    <section>
      <h2>{title}</h2>
      {rows.length === 0 ? (
        <p class="muted">No request yet.</p>
      ) : (
        <table class="list small-list">
          <thead>
            <tr>
              <th scope="col">{models ? "Model" : "Tenant"}</th>
              <th scope="col" class="right">
                Requests
              </th>
              <th scope="col" class="right" title={`Generated in the last ${RECENT_S} s`}>
                Tokens/s
              </th>
              <th scope="col" class="right">
                First token
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ name, usage, rate }) => (
              <tr key={name}>
                <th scope="row">{models ? <Model id={name} base={name === base || name.startsWith("(")} link /> : <bdi>{name}</bdi>}</th>
                <td class="right">{compact(usage.requests)}</td>
                <td class="right">{rate < 10 ? rate.toFixed(1) : compact(rate)}</td>
                <td class="right">{usage.first_token.count ? seconds(usage.first_token.sum / usage.first_token.count) : "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function Reasons({ state }: { state: Live }) {
  const rows = Object.entries(state.reasons).sort(([, one], [, other]) => other - one);
  return (
    <section>
      <h2>Reasons</h2>
      {rows.length === 0 ? (
        <p class="muted">No request yet.</p>
      ) : (
        <table class="list small-list">
          <thead>
            <tr>
              <th scope="col">Reason</th>
              <th scope="col" class="right">
                Requests
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map(([reason, number]) => (
              <tr key={reason}>
                <th scope="row">
                  <Tag tone={reason.startsWith("base:") ? "base" : reason === "named" ? "" : "match"}>{reason}</Tag>
                </th>
                <td class="right">{compact(number)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
