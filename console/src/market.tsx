// The market: who is in it, how good each is, and the changes that the admin key may make.
import { useMemo, useState } from "preact/hooks";
import { learnwarePath } from "./api";
import { Confirm, afterwards, type Change } from "./changes";
import { compact, seconds, share } from "./format";
import { useFetched, useRested, useSession } from "./hooks";
import { LearnwareView } from "./learnware";
import { Dialog, Empty, Fault, Model, Placeholder, Tag } from "./parts";
import { Submit } from "./submit";
import type { Learnware, LearnwareList, Live } from "./types";

const STATES = ["active", "quarantined", "unfit", "replaced", "removed", "all"];

export function MarketPage({ id }: { id: string | undefined }) {
  const session = useSession();
  const live = useFetched<Live>(session.metrics ? "/console/api/live" : null);
  return id === undefined ? <List live={live.value} /> : <LearnwarePage id={id} live={live.value} />;
}

function List({ live }: { live: Live | null }) {
  const session = useSession();
  const [text, setText] = useState("");
  const [state, setState] = useState("active");
  const [submits, setSubmits] = useState(false);
  const query = useRested(text.trim(), 250);
  const path = useMemo(() => {
    const asked = new URLSearchParams({ state });
    if (state === "active" && query) asked.set("q", query);
    return `/v1/learnwares?${asked}`;
  }, [query, state]);
  const found = useFetched<LearnwareList>(path);
  // only those that are served can be searched by the stack itself
  const rows = (found.value?.data ?? []).filter(
    (one) => state === "active" || `${one.id} ${one.card?.name ?? ""} ${one.reason ?? ""}`.toLowerCase().includes(query.toLowerCase()),
  );
  const unserved = Object.entries(found.value?.unserved ?? {}).filter(([, number]) => number > 0);
  return (
    <>
      <div class="head">
        <h1>Market</h1>
        <p class="muted">
          {found.value && `${rows.length} ${rows.length === 1 ? "learnware" : "learnwares"}`}
          {unserved.length > 0 && ` · not served: ${unserved.map(([kind, number]) => `${number} ${kind}`).join(", ")}`}
        </p>
        <span class="space" />
        <button type="button" class="primary" disabled={!session.admin} onClick={() => setSubmits(true)}>
          Submit a learnware
        </button>
      </div>
      {!session.admin && (
        <p class="muted small">
          {session.changes ? "Changes need the admin key (at the top)." : "Changes over HTTP are off: no admin key is set."}
        </p>
      )}
      <div class="filters" role="search">
        <label>
          Search
          <input type="search" value={text} placeholder="Name, task, words of the card" onInput={(event) => setText(event.currentTarget.value)} />
        </label>
        <label>
          State
          <select aria-label="State" value={state} onChange={(event) => setState(event.currentTarget.value)}>
            {STATES.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Fault error={found.error} retry={found.again} />
      {found.value?.unpublished && <div class="note">{found.value.unpublished}</div>}
      {!found.value && !found.error && <Placeholder rows={8} />}
      {found.value && rows.length === 0 && (
        <Empty title={query ? `Nothing matches “${query}”` : "Nothing here"}>
          <p class="muted">{query ? "Look in another state, or for fewer words." : `No learnware is in the state ${state}.`}</p>
        </Empty>
      )}
      {rows.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Learnwares">
          <table class="list stacks">
            <thead>
              <tr>
                <th scope="col">Learnware</th>
                <th scope="col">Domain</th>
                <th scope="col">Tasks</th>
                <th scope="col" class="right">
                  Version
                </th>
                <th scope="col">State</th>
                {live && (
                  <>
                    <th scope="col" class="right">
                      Requests
                    </th>
                    <th scope="col" class="right">
                      First token
                    </th>
                  </>
                )}
              </tr>
            </thead>
            <tbody>
              {rows.map((one) => {
                const usage = live?.learnwares[one.id];
                return (
                  <tr key={`${one.id}@${one.version}@${one.changed}`}>
                    <th scope="row">
                      <Model id={one.id} link />
                      <span class="sub" dir="auto">
                        {one.card?.name ?? ""}
                      </span>
                    </th>
                    <td data-label="Domain" dir="auto">
                      {one.card?.domain ?? "–"}
                    </td>
                    <td data-label="Tasks" dir="auto">
                      {one.card?.tasks.join(", ") ?? "–"}
                    </td>
                    <td data-label="Version" class="right">
                      {one.version}
                    </td>
                    <td data-label="State">
                      <StateTag one={one} />
                    </td>
                    {live && (
                      <>
                        <td data-label="Requests" class="right">
                          {usage ? compact(usage.requests) : "0"}
                        </td>
                        <td data-label="First token" class="right">
                          {usage?.first_token.count ? seconds(usage.first_token.sum / usage.first_token.count) : "–"}
                        </td>
                      </>
                    )}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {submits && (
        <Dialog title="Submit a learnware" close={() => setSubmits(false)}>
          <Submit done={found.again} close={() => setSubmits(false)} />
        </Dialog>
      )}
    </>
  );
}

export function StateTag({ one }: { one: Learnware }) {
  if (one.state === "active") {
    return (
      <>
        {one.chosen_by_auto ? <Tag tone="good">served</Tag> : <Tag>by name only</Tag>}
        {one.canary && (
          <>
            {" "}
            <Tag tone="warn">canary {share(one.canary.share)}</Tag>
          </>
        )}
      </>
    );
  }
  return <Tag tone={one.state === "quarantined" ? "bad" : one.state === "unfit" ? "warn" : ""}>{one.state}</Tag>;
}

function LearnwarePage({ id, live }: { id: string; live: Live | null }) {
  const session = useSession();
  const found = useFetched<Learnware>(learnwarePath(id));
  const all = useFetched<LearnwareList>("/v1/learnwares?state=all");
  const versions = (all.value?.data ?? []).filter((one) => one.id === id).reverse();
  const [change, setChange] = useState<Change | "replace" | null>(null);
  const [said, setSaid] = useState("");
  const one = found.value?.id === id ? found.value : null;
  const made = (answer: Learnware) => {
    setSaid(afterwards(change as Change, answer));
    setChange(null);
    found.again();
    all.again();
  };
  return (
    <>
      <p class="crumbs">
        <a href="#/market">Market</a>
      </p>
      <Fault error={found.error} retry={found.again} />
      {!one && !found.error && <Placeholder rows={8} />}
      {one && (
        <>
          <div class="head">
            <h1>
              <Model id={one.id} />
            </h1>
            <StateTag one={one} />
            <span class="space" />
            {session.admin && (
              <div class="actions">
                {one.canary && (
                  <>
                    <button type="button" onClick={() => setChange("promote")}>
                      Promote canary
                    </button>
                    <button type="button" onClick={() => setChange("roll-back")}>
                      Roll back canary
                    </button>
                  </>
                )}
                {one.state === "active" && (
                  <>
                    {!one.canary && (
                      <button type="button" onClick={() => setChange("replace")}>
                        New version
                      </button>
                    )}
                    <button type="button" onClick={() => setChange("quarantine")}>
                      Quarantine
                    </button>
                  </>
                )}
                {one.state === "quarantined" && (
                  <button type="button" onClick={() => setChange("release")}>
                    Release
                  </button>
                )}
                {one.state !== "removed" && one.state !== "replaced" && (
                  <button type="button" class="danger" onClick={() => setChange("remove")}>
                    Remove
                  </button>
                )}
              </div>
            )}
          </div>
          <div role="status">{said && <div class="note">{said}</div>}</div>
          <LearnwareView one={one} versions={versions} usage={live?.learnwares[id] ?? null} hasTraffic={live !== null} />
          {change === "replace" && (
            <Dialog title={`New version of ${id}`} close={() => setChange(null)}>
              <Submit
                replaces={id}
                done={() => {
                  found.again();
                  all.again();
                }}
                close={() => setChange(null)}
              />
            </Dialog>
          )}
          {change !== null && change !== "replace" && <Confirm change={change} id={id} close={() => setChange(null)} made={made} />}
        </>
      )}
    </>
  );
}
