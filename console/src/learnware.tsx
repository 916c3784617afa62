// One learnware: its card, its measured quality, what it does off its task, its versions and traffic.
import { canaryOf, compact, epoch, percent, seconds, share, signed, when } from "./format";
import { Bar, Fault, Tag } from "./parts";
import { StateTag } from "./market";
import type { Known, Learnware, PastCanary, Usage } from "./types";

export function LearnwareView({
  one,
  versions,
  usage,
  hasTraffic,
}: {
  one: Learnware;
  versions: Learnware[];
  usage: Usage | null;
  hasTraffic: boolean;
}) {
  const { card } = one;
  return (
    <div class="sheet">
      <section class="wide-part">
        {one.reason && (
          <div class="note bad">
            <span dir="auto">{one.reason}</span>
          </div>
        )}
        {one.not_chosen_because && one.state === "active" && <div class="note">{one.not_chosen_because}</div>}
        {one.canary && (
          <div class="note">
            <span>
              Version {one.canary.version} is on trial as a canary since {when(one.canary.since)}: it answers {share(one.canary.share)} of
              the requests for which this learnware is chosen, and is recorded as <bdi class="mono">{canaryOf(one.id)}</bdi>.
            </span>
            <a href="#/evaluations" class="whole">
              How it does
            </a>
          </div>
        )}
        {card && (
          <>
            <h2 dir="auto">{card.name}</h2>
            <p dir="auto" class="description">
              {card.description}
            </p>
            <dl class="pairs card">
              {[
                ["Domain", card.domain],
                ["Tasks", card.tasks.join(", ")],
                ["Languages", card.languages.join(", ")],
                ["Base model", card.base_model.id + (card.base_model.revision ? ` @ ${card.base_model.revision}` : "")],
                ["Author", card.author],
                ["Licence", card.licence],
                ["Training", card.training],
                ["Source", card.source],
              ].map(
                ([name, value]) =>
                  value && (
                    <div key={name} class={value.length > 60 ? "wide" : ""}>
                      <dt>{name}</dt>
                      <dd dir="auto">{value}</dd>
                    </div>
                  ),
              )}
            </dl>
          </>
        )}
        {one.notes.length > 0 && (
          <>
            <h3>Notes of its trial</h3>
            <ul class="plain">
              {one.notes.map((note, place) => (
                <li key={place} dir="auto">
                  {note}
                </li>
              ))}
            </ul>
          </>
        )}
        <Quality one={one} />
        <Evidence feedback={one.known?.feedback} />
        <OffTask one={one} />
        {card?.examples && card.examples.length > 0 && (
          <details>
            <summary>Examples of requests ({card.examples.length})</summary>
            {card.examples.map((example, place) => (
              <blockquote key={place} dir="auto">
                {example}
              </blockquote>
            ))}
          </details>
        )}
      </section>
      <aside>
        {hasTraffic && <Traffic usage={usage} />}
        <h3>Versions</h3>
        <ol class="versions">
          {versions.map((version) => (
            <li key={`${version.version}${version.changed}`}>
              <b>{version.version}</b> <StateTag one={version} />
              <span class="muted small">{version.changed.replace("T", " ").slice(0, 16)}</span>
              {version.sha256 && (
                <code class="small" title={version.sha256}>
                  {version.sha256.slice(0, 12)}
                </code>
              )}
            </li>
          ))}
        </ol>
        <Canaries past={one.canaries ?? []} />
      </aside>
    </div>
  );
}

/** The canaries that there were, the newest first. */
function Canaries({ past }: { past: PastCanary[] }) {
  const ended = past.filter((one) => one.until !== null).sort((one, other) => (epoch(other.until) ?? 0) - (epoch(one.until) ?? 0));
  if (!ended.length) return null;
  return (
    <>
      <h3>Canaries</h3>
      <ol class="versions">
        {ended.map((one) => (
          <li key={`${one.version}${one.since}`}>
            <b>{one.version}</b> <Tag tone={one.outcome === "promoted" ? "good" : "bad"}>{one.outcome}</Tag>
            <span class="muted small">
              {share(one.share)}, until {when(one.until)}
            </span>
            {one.reason && (
              <span class="small" dir="auto">
                {one.reason}
              </span>
            )}
          </li>
        ))}
      </ol>
    </>
  );
}

function Quality({ one }: { one: Learnware }) {
  const rows = Object.entries(one.known?.probes ?? {});
  if (!rows.length) return null;
  return (
    <section>
      <h3>Measured quality</h3>
      <table class="figures wide-figures">
        <thead>
          <tr>
            <th scope="col">Task</th>
            <th scope="col">Probability of the right answer</th>
            <th scope="col">Base model</th>
            <th scope="col" class="right">
              Rows
            </th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([task, score]) => (
            <tr key={task}>
              <th scope="row">
                <bdi>{task}</bdi>
              </th>
              <td>
                <Bar value={score.probability} label={`Probability on ${task}`} />
              </td>
              <td>
                <Bar value={score.base_probability} label={`The base model's probability on ${task}`} tone="base" />
              </td>
              <td class="right">{score.rows}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

const KINDS: Record<string, string> = {
  everyday: "Everyday requests",
  domain: "Its domain, other tasks",
  material: "Texts like its own",
};

function OffTask({ one }: { one: Learnware }) {
  if (!one.off_task) return null;
  const { measured, loss, note } = one.off_task;
  return (
    <section>
      <h3>Off its task</h3>
      <p class="muted">{note}</p>
      <table class="figures wide-figures">
        <thead>
          <tr>
            <th scope="col">Requests</th>
            <th scope="col">Expected loss</th>
            <th scope="col" class="right">
              Degenerate answers
            </th>
            <th scope="col" class="right">
              Drift, nats a token
            </th>
          </tr>
        </thead>
        <tbody>
          {Object.entries(measured).map(([kind, score]) => (
            <tr key={kind}>
              <th scope="row">{KINDS[kind] ?? kind}</th>
              <td>
                <Bar value={loss[kind] ?? 0} label={`Loss on ${kind} requests`} tone={(loss[kind] ?? 0) >= 0.2 ? "harm" : "task"} />
              </td>
              {score ? (
                <>
                  <td class="right" title={`${percent(score.degenerate_share[0])} to ${percent(score.degenerate_share[1])}`}>
                    {score.degenerate} of {score.prompts}
                  </td>
                  <td class="right" title={`${score.drift_interval[0]} to ${score.drift_interval[1]}`}>
                    {(Math.round(score.drift * 100) / 100 || 0).toFixed(2)}
                  </td>
                </>
              ) : (
                <td colSpan={2} class="right muted">
                  not measured
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** What feedback has taught of it: by task the gain over the base model, and what waits for an operator. */
function Evidence({ feedback }: { feedback: Known["feedback"] }) {
  const tasks = Object.entries(feedback?.tasks ?? {});
  const held = feedback?.held ?? [];
  if (feedback?.fault) return <Fault error={feedback.fault} />;
  if (!tasks.length && !held.length) return null;
  return (
    <section>
      <h3>Evidence from feedback</h3>
      <table class="figures wide-figures">
        <thead>
          <tr>
            <th scope="col">Task</th>
            <th scope="col" class="right">
              Gain over the base model
            </th>
            <th scope="col" class="right">
              Pieces of feedback
            </th>
          </tr>
        </thead>
        <tbody>
          {tasks.map(([task, found]) => (
            <tr key={task}>
              <th scope="row">
                <bdi>{task}</bdi>
              </th>
              <td class="right">{signed(found.gain)}</td>
              <td class="right">{found.pieces.toFixed(1)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {held.map((one) => (
        <div class="note" key={one.task}>
          <span>
            A change on <bdi>{one.task}</bdi> waits for approval: {signed(one.gain)} would become {signed(one.would_be)}.
          </span>
        </div>
      ))}
    </section>
  );
}

function Traffic({ usage }: { usage: Usage | null }) {
  return (
    <>
      <h3>Traffic</h3>
      {usage ? (
        <>
          <dl class="pairs">
            <div>
              <dt>Requests</dt>
              <dd>{compact(usage.requests)}</dd>
            </div>
            <div>
              <dt>Tokens generated</dt>
              <dd>{compact(usage.tokens.generated)}</dd>
            </div>
            <div>
              <dt>First token, mean</dt>
              <dd>{usage.first_token.count ? seconds(usage.first_token.sum / usage.first_token.count) : "–"}</dd>
            </div>
          </dl>
          <ul class="plain small">
            {Object.entries(usage.reasons ?? {})
              .sort(([, one], [, other]) => other - one)
              .map(([reason, number]) => (
                <li key={reason}>
                  <Tag>{reason}</Tag> {compact(number)}
                </li>
              ))}
          </ul>
        </>
      ) : (
        <p class="muted">No request since the replicas started.</p>
      )}
    </>
  );
}
