// Changes of one learnware that the admin key may make, each after a question.
import { useState } from "preact/hooks";
import { learnwarePath, post, send } from "./api";
import { Dialog, Fault } from "./parts";
import type { Learnware } from "./types";

const CHANGES = {
  quarantine: { title: "Quarantine", says: "It is served no more, and its files are kept. Requests that name it are refused." },
  release: { title: "Release", says: "If its files are still there it is served again; otherwise they may be submitted again." },
  remove: { title: "Remove", says: "It is served no more. A later version may be submitted; this one does not come back." },
  promote: { title: "Promote the canary of", says: "The canary becomes the current version, and answers all its requests from now on." },
  "roll-back": { title: "Roll back the canary of", says: "The canary answers no more. The current version stays, and answers all its requests." },
} as const;

export type Change = keyof typeof CHANGES;

/** Changes whose reason is kept in the market's journal. */
const GIVES_REASON: readonly Change[] = ["quarantine", "roll-back"];

/** What a learnware is after a change, in words. */
export function afterwards(change: Change, answer: Learnware): string {
  if (answer.pending) return answer.pending;
  if (change === "roll-back") return `The canary of ${answer.id} is gone; version ${answer.version} answers alone.`;
  return `${answer.id} version ${answer.version} is ${answer.state === "active" ? "served" : answer.state} on every replica.`;
}

export function Confirm({
  change,
  id,
  close,
  made,
}: {
  change: Change;
  id: string;
  close: () => void;
  made: (answer: Learnware) => void;
}) {
  const [reason, setReason] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const { title, says } = CHANGES[change];
  const givesReason = GIVES_REASON.includes(change);
  const go = async () => {
    setBusy(true);
    setError(null);
    try {
      made(
        change === "remove"
          ? ((await (await send(learnwarePath(id), { method: "DELETE" })).json()) as Learnware)
          : await post<Learnware>(`${learnwarePath(id)}/${change}`, givesReason ? { reason } : undefined),
      );
    } catch (wrong) {
      setError(wrong);
      setBusy(false);
    }
  };
  return (
    <Dialog title={`${title} ${id}?`} close={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void go();
        }}
      >
        <p>{says}</p>
        {givesReason && (
          <label>
            Reason
            <textarea rows={3} required value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
          </label>
        )}
        <Fault error={error} />
        <div class="actions">
          <button type="submit" class={change === "remove" ? "danger" : "primary"} disabled={busy || (givesReason && !reason.trim())}>
            {title.replace(/ the canary of$/, "")}
          </button>
          <button type="button" onClick={close}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}
