// Submits a zip, and shows what the stack does with it.
import { useEffect, useRef, useState } from "preact/hooks";
import { learnwarePath, upload } from "./api";
import { bytes, percent, seconds, share } from "./format";
import { useSession } from "./hooks";
import { Fault } from "./parts";

const STAGES = [
  { name: "received", does: "Upload", hint: "the zip is sent" },
  { name: "checked", does: "Check", hint: "files, tensors, card, specification" },
  { name: "tried", does: "Try and measure on an engine", hint: "its own examples, and requests off its task; up to two minutes" },
  { name: "measured", does: "Keep what was measured", hint: "with the learnware" },
  { name: "served", does: "Serve", hint: "every router and replica follows" },
] as const;

interface Progress {
  passed: Record<string, { at: number; said: Record<string, unknown> }>;
  began: number;
  sent: number;
  refused: string | null;
}

export function Submit({ replaces, done, close }: { replaces?: string; done: () => void; close: () => void }) {
  const { max_upload_bytes: most } = useSession();
  const [file, setFile] = useState<File | null>(null);
  const [progress, set] = useState<Progress | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [over, setOver] = useState(false);
  const [percents, setPercents] = useState("");
  const canary = Number(percents) > 0 ? Number((Number(percents) / 100).toFixed(6)) : null;
  const stop = useRef<AbortController | null>(null);
  const [, tick] = useState(0);
  const ended = progress !== null && (progress.refused !== null || "served" in progress.passed || error !== null);
  useEffect(() => () => stop.current?.abort(), []);
  useEffect(() => {
    if (!progress || ended) return undefined;
    const timer = setInterval(() => tick((turn) => turn + 1), 500);
    return () => clearInterval(timer);
  }, [progress !== null, ended]);

  const go = async () => {
    if (!file) return;
    stop.current = new AbortController();
    setError(null);
    set({ passed: {}, began: performance.now(), sent: 0, refused: null });
    try {
      await upload(
        replaces === undefined ? "POST" : "PUT",
        replaces === undefined ? "/v1/learnwares" : learnwarePath(replaces) + (canary === null ? "" : `?canary=${canary}`),
        file,
        {
          sent: (share) => set((before) => before && { ...before, sent: share }),
          event: ({ event, data }) => {
            const said = JSON.parse(data);
            if (event === "refused") set((before) => before && { ...before, refused: said.error?.message ?? "It was refused." });
            else set((before) => before && { ...before, passed: { ...before.passed, [event]: { at: performance.now(), said } } });
            if (event === "served" || event === "refused") done();
          },
        },
        stop.current.signal,
      );
    } catch (wrong) {
      if (!stop.current.signal.aborted) setError(wrong);
    }
  };
  const tooLarge = file !== null && file.size > most;

  return (
    <form
      class="submit"
      onSubmit={(event) => {
        event.preventDefault();
        void go();
      }}
    >
      {progress === null && (
        <>
          <label
            class={`drop ${over ? "over" : ""}`}
            onDragOver={(event) => {
              event.preventDefault();
              setOver(true);
            }}
            onDragLeave={() => setOver(false)}
            onDrop={(event) => {
              event.preventDefault();
              setOver(false);
              setFile(event.dataTransfer?.files[0] ?? null);
            }}
          >
            <span>{file ? file.name : "Zip of a learnware"}</span>
            <span class="muted small">{file ? bytes(file.size) : `choose a file or drop it here; at most ${bytes(most)}`}</span>
            <input type="file" accept=".zip,application/zip" onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)} />
          </label>
          {replaces !== undefined && <CanaryShare percents={percents} set={setPercents} />}
          {tooLarge && <Fault error={`The file is larger than ${bytes(most)} (market.max_upload_mib).`} />}
        </>
      )}
      {progress !== null && <Steps progress={progress} failed={error !== null || progress.refused !== null} />}
      <Fault error={error ?? progress?.refused} />
      {"served" in (progress?.passed ?? {}) && (
        <div class="note good" role="status">
          {String(progress!.passed["served"]!.said["pending"] ?? (canary === null ? `${progress!.passed["served"]!.said["id"]} is served on every replica.` : `Its canary answers ${share(canary)} of the requests for which ${replaces} is chosen.`))}
        </div>
      )}
      <div class="actions">
        {progress === null && (
          <button type="submit" class="primary" disabled={!file || tooLarge}>
            {replaces === undefined ? "Submit" : canary === null ? "Replace" : "Begin the canary"}
          </button>
        )}
        {error !== null && (
          <button type="button" class="primary" onClick={() => void go()}>
            Try again
          </button>
        )}
        <button type="button" onClick={close}>
          {ended ? "Close" : "Cancel"}
        </button>
      </div>
    </form>
  );
}

/** The share of requests that a new version gets while it is on trial; none: it takes the place of the current one. */
function CanaryShare({ percents, set }: { percents: string; set: (percents: string) => void }) {
  return (
    <label>
      Share of requests, in percent, that it gets as a canary
      <input
        type="number"
        min={0.1}
        max={99.9}
        step="any"
        value={percents}
        placeholder="empty: it replaces the current version at once"
        onInput={(event) => set(event.currentTarget.value)}
      />
      <span class="small">A canary is promoted or rolled back by what is found out about its answers, or by hand.</span>
    </label>
  );
}

function Steps({ progress, failed }: { progress: Progress; failed: boolean }) {
  const current = STAGES.findIndex((stage) => !(stage.name in progress.passed));
  let before = progress.began;
  return (
    <ol class="steps" aria-label="Progress">
      {STAGES.map((stage, place) => {
        const passed = progress.passed[stage.name];
        const state = passed ? "passed" : place === current ? (failed ? "failed" : "current") : "ahead";
        const took = ((passed ? passed.at : performance.now()) - before) / 1000;
        if (passed) before = passed.at;
        return (
          <li key={stage.name} class={state} aria-current={state === "current" ? "step" : undefined}>
            <i aria-hidden="true" />
            <span>
              <b>{stage.does}</b>
              <span class="muted small">{stage.hint}</span>
            </span>
            <span class="figure">
              {state === "passed" && seconds(took)}
              {state === "current" && (place === 0 && progress.sent < 1 ? percent(progress.sent) : `${Math.round(took)} s`)}
              {state === "failed" && "refused"}
            </span>
          </li>
        );
      })}
    </ol>
  );
}
