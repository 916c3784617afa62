import { Component, render, type ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, ConnectionLost, key, listen, session as askSession } from "./api";
import { DecisionsPage } from "./decisions";
import { EvaluationsPage } from "./evaluations";
import { SessionContext } from "./hooks";
import { LivePage } from "./live";
import { MarketPage } from "./market";
import { Dialog, Fault } from "./parts";
import { TryPage } from "./try";
import type { Session } from "./types";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const PAGES = [
  { name: "try", title: "Try", icon: "M4 5h16v11H9l-5 4z" },
  { name: "market", title: "Market", icon: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z" },
  { name: "live", title: "Live", icon: "M3 12h4l3-8 4 16 3-8h4" },
  { name: "decisions", title: "Decisions", icon: "M4 6h16M4 12h16M4 18h10" },
  { name: "evaluations", title: "Evaluations", icon: "M12 3v18M7 21h10M5 6h14M5 6l-3 8h6zM19 6l-3 8h6z" },
];
const RETRY_MS = 2000;

/** The parts of the address behind the hash: #/market/acme%2Ftfns gives ["market", "acme/tfns"]. */
function place(): string[] {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean);
  return parts.map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
}

function usePlace(): string[] {
  const [now, set] = useState(place);
  useEffect(() => {
    const moved = () => set(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return now;
}

type State = { kind: "asking" } | { kind: "key"; refused: boolean } | { kind: "wrong"; error: unknown } | { kind: "in"; session: Session };

function App() {
  const [state, set] = useState<State>({ kind: "asking" });
  const [lost, setLost] = useState(false);
  const [asksKey, setAsksKey] = useState(false);

  const enter = async () => {
    try {
      set({ kind: "in", session: await askSession() });
      setAsksKey(false);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) set({ kind: "key", refused: key.get() !== "" });
      else set((before) => (before.kind === "in" ? before : { kind: "wrong", error }));
    }
  };
  useEffect(() => void enter(), []);
  useEffect(
    () =>
      listen((event) => {
        if (event === "unauthorized") set({ kind: "key", refused: key.get() !== "" });
        else setLost(event === "lost");
      }),
    [],
  );
  // While the connection is lost, it is asked for again and again; whatever answers ends that.
  useEffect(() => {
    if (!lost) return undefined;
    const timer = setInterval(() => askSession().then((session) => set({ kind: "in", session }), () => undefined), RETRY_MS);
    return () => clearInterval(timer);
  }, [lost]);

  const use = (value: string) => {
    key.set(value);
    void enter();
  };

  if (state.kind === "asking") return <div class="entry" aria-busy="true" />;
  if (state.kind === "key") return <KeyPage refused={state.refused} use={use} />;
  if (state.kind === "wrong") {
    return (
      <main class="entry">
        <h1>learnware-serving</h1>
        <Fault error={state.error} retry={() => void enter()} />
        {state.error instanceof ConnectionLost && <p class="muted">It is tried again every two seconds.</p>}
      </main>
    );
  }
  return (
    <SessionContext.Provider value={state.session}>
      <Shell lost={lost} askKey={() => setAsksKey(true)} />
      {asksKey && (
        <Dialog title="Key of this tab" close={() => setAsksKey(false)}>
          <p>
            {key.get() ? (
              <>
                This tab acts as <b>{state.session.tenant}</b>.
              </>
            ) : (
              "This tab uses no key. Changes of the market need the admin key."
            )}
          </p>
          <KeyForm use={use} cancel={() => setAsksKey(false)} />
          {key.get() && (
            <p>
              <button type="button" class="quiet" onClick={() => use("")}>
                Forget the key
              </button>
            </p>
          )}
        </Dialog>
      )}
    </SessionContext.Provider>
  );
}

function KeyPage({ refused, use }: { refused: boolean; use: (value: string) => void }) {
  return (
    <main class="entry">
      <img src="/console/icon.svg" alt="" width={40} height={40} />
      <h1>learnware-serving</h1>
      <p class="muted">This stack asks for an API key. It stays in this tab, and is forgotten when the tab is closed.</p>
      {refused && <Fault error="The key does not hold. Type it again, or use another one." />}
      <KeyForm use={use} />
    </main>
  );
}

function KeyForm({ use, cancel }: { use: (value: string) => void; cancel?: () => void }) {
  const [value, set] = useState("");
  return (
    <form
      class="key-form"
      onSubmit={(event) => {
        event.preventDefault();
        if (value.trim()) use(value.trim());
      }}
    >
      <label for="key">API key</label>
      <input
        id="key"
        type="password"
        autocomplete="off"
        spellcheck={false}
        value={value}
        onInput={(event) => set(event.currentTarget.value)}
        autofocus
      />
      <div class="actions">
        <button type="submit" class="primary" disabled={!value.trim()}>
          Use this key
        </button>
        {cancel && (
          <button type="button" onClick={cancel}>
            Cancel
          </button>
        )}
      </div>
    </form>
  );
}

function Shell({ lost, askKey }: { lost: boolean; askKey: () => void }) {
  const [page = "try", ...rest] = usePlace();
  const shown = PAGES.find((one) => one.name === page) ?? PAGES[0]!;
  useEffect(() => {
    document.title = `${shown.title} · learnware-serving`;
  }, [shown]);
  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={(event) => {
        event.preventDefault();
        document.getElementById("main")?.focus();
      }}>
        To the content
      </a>
      <header>
        <a class="brand" href="#/try" aria-label="learnware-serving">
          <img src="/console/icon.svg" alt="" width={24} height={24} />
          <span>learnware-serving</span>
        </a>
        <nav aria-label="Pages">
          {PAGES.map((one) => (
            <a key={one.name} href={`#/${one.name}`} aria-current={one === shown ? "page" : undefined}>
              <svg viewBox="0 0 24 24" aria-hidden="true">
                <path d={one.icon} />
              </svg>
              <span>{one.title}</span>
            </a>
          ))}
        </nav>
        <div class="corner">
          <SessionContext.Consumer>
            {(session) => (
              <button type="button" class="quiet" onClick={askKey} title="Key of this tab">
                <svg viewBox="0 0 24 24" aria-hidden="true">
                  <path d="M14 10a4 4 0 1 0-3 3.9l1 1.1h2v2h2v2h4v-3l-6-5z" />
                </svg>
                <span>{session.tenant}</span>
              </button>
            )}
          </SessionContext.Consumer>
          <ThemeSwitch />
        </div>
      </header>
      <div class="banner" role="status">
        {lost && <p>The connection to the stack is lost. It is tried again every two seconds.</p>}
      </div>
      <main id="main" tabIndex={-1} class={`page ${shown.name}`}>
        {/* the chat outlives a look at another page */}
        <div hidden={shown.name !== "try"} class="kept">
          <Guard>
            <TryPage />
          </Guard>
        </div>
        <Guard key={shown.name}>
          {shown.name === "market" && <MarketPage id={rest[0]} />}
          {shown.name === "live" && <LivePage />}
          {shown.name === "decisions" && <DecisionsPage id={rest[0]} />}
          {shown.name === "evaluations" && <EvaluationsPage />}
        </Guard>
      </main>
    </div>
  );
}

const THEME = "learnware-theme";
const THEMES = { light: "Light", dark: "Dark", "": "As the system" } as const;
type Theme = keyof typeof THEMES;

function applyTheme(theme: Theme): void {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

const storedTheme = (): Theme => {
  const stored = localStorage.getItem(THEME) ?? "";
  return stored in THEMES ? (stored as Theme) : "";
};

function ThemeSwitch() {
  const [theme, set] = useState<Theme>(storedTheme);
  const next: Record<Theme, Theme> = { "": "light", light: "dark", dark: "" };
  return (
    <button
      type="button"
      class="quiet theme"
      title={`Colours: ${THEMES[theme]}`}
      aria-label={`Colours: ${THEMES[theme]}. Change`}
      onClick={() => {
        const chosen = next[theme];
        localStorage.setItem(THEME, chosen);
        applyTheme(chosen);
        set(chosen);
      }}
    >
      <svg viewBox="0 0 24 24" aria-hidden="true">
        {theme === "light" && <path d="M12 7a5 5 0 1 0 0 10a5 5 0 0 0 0-10M12 1v3M12 20v3M1 12h3M20 12h3M4 4l2 2M18 18l2 2M4 20l2-2M18 6l2-2" />}
        {theme === "dark" && <path d="M20 14A8 8 0 1 1 10 4a6.5 6.5 0 0 0 10 10z" />}
        {theme === "" && <path d="M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18" />}
      </svg>
    </button>
  );
}

/** A page that fails says so, and leaves the others alone. */
class Guard extends Component<{ children: ComponentChildren }, { error: unknown }> {
  override state = { error: null as unknown };

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override componentDidCatch(error: unknown) {
    console.error(error);
  }

  override render() {
    return this.state.error ? <Fault error={this.state.error} retry={() => this.setState({ error: null })} /> : this.props.children;
  }
}

applyTheme(storedTheme());
render(<App />, document.getElementById("app")!);
