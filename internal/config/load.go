package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/homing-mq/homing/internal/textfile"
)

// Sources is where values come from besides the defaults; a later field wins.
type Sources struct {
	File  string   // path of a YAML file; empty: none
	Env   []string // NAME=value, as os.Environ returns it
	Set   []string // key=value, from --set
	Flags []Flag   // from flags of their own
}

// Flag is a command line flag that stands for a setting.
type Flag struct {
	Name  string // "--mqtt", for messages
	Key   string // "listen.mqtt"
	Value string
}

// Error is a mistake in the configuration: what the user wrote, not what went
// wrong here.
type Error struct {
	Where   string // "homing.yml:3:9", "HOMING_STORE_SYNC", "--set"; may be empty
	Text    string
	Excerpt string // the line of the file with a caret below; may be empty
}

func (e *Error) Error() string {
	s := e.Text
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.Excerpt != "" {
		s += "\n" + e.Excerpt
	}
	return s
}

// loader puts values into cfg and remembers where they came from.
type loader struct {
	cfg      *Config
	settings map[string]*setting
	names    []string // of settings and sections, for suggestions
	sections map[string]bool
	origin   map[string]string // by path: Where of an Error
	env      map[string]string // for ${NAME} in the file
}

func newLoader() *loader {
	l := &loader{
		cfg:      Default(),
		settings: make(map[string]*setting),
		sections: make(map[string]bool),
		origin:   make(map[string]string),
		env:      make(map[string]string),
	}
	leaves, sections := settings()
	for i := range leaves {
		l.settings[leaves[i].path] = &leaves[i]
		l.names = append(l.names, leaves[i].path)
	}
	for _, s := range sections {
		l.sections[s] = true
		l.names = append(l.names, s)
	}
	return l
}

// Load returns the settings of all sources, checked. Errors about what the
// user wrote are *Error.
func Load(src Sources) (*Config, error) {
	l := newLoader()
	if src.File != "" {
		data, err := textfile.Read(src.File)
		if err != nil {
			return nil, &Error{Text: fmt.Sprintf("cannot read the configuration: %v", err)}
		}
		l.env = environment(src.Env)
		if err := l.file(src.File, data); err != nil {
			return nil, err
		}
	}
	if err := l.environment(src.Env); err != nil {
		return nil, err
	}
	for _, s := range src.Set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, &Error{Where: "--set " + s, Text: "write --set KEY=VALUE, like --set store.sync=os"}
		}
		if err := l.set("--set "+key, key, value); err != nil {
			return nil, err
		}
	}
	for _, f := range src.Flags {
		if err := l.set(f.Name, f.Key, f.Value); err != nil {
			return nil, err
		}
	}
	if err := l.readSecrets(src.File); err != nil {
		return nil, err
	}
	if err := l.validate(); err != nil {
		return nil, err
	}
	return l.cfg, nil
}

// set puts text into the setting with the given key.
func (l *loader) set(where, key, text string) error {
	s, ok := l.settings[key]
	switch {
	case ok:
	case l.sections[key]:
		return &Error{Where: where, Text: key + " is a section; give one of its settings, like " + l.first(key+".")}
	default:
		return &Error{Where: where, Text: fmt.Sprintf("there is no setting %q%s", key, didYouMean(key, l.names))}
	}
	if s.isList() {
		if err := l.list(where, s, text); err != nil {
			return err
		}
	} else if err := setScalar(s.value(l.cfg), s.field.Tag, text); err != nil {
		return &Error{Where: where, Text: key + " " + err.Error()}
	}
	l.origin[key] = where
	return nil
}

// first returns the first setting whose path starts with prefix.
func (l *loader) first(prefix string) string {
	i := slices.IndexFunc(l.names, func(n string) bool { return strings.HasPrefix(n, prefix) })
	return l.names[i]
}

// configEnv names the variable with the path of the file. The command reads
// it; it is no setting.
const configEnv = "HOMING_CONFIG"

// serviceEnv matches the variables that Kubernetes sets in every container
// for a service named homing or homing-something, and Docker for a link.
var serviceEnv = regexp.MustCompile(`^HOMING(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)$`)

// environment takes HOMING_* variables. One that is no setting is an error, as
// a misspelt setting would go unnoticed otherwise.
func (l *loader) environment(env []string) error {
	byName := make(map[string]string, len(l.settings))
	names := []string{configEnv}
	for path, s := range l.settings {
		byName[s.env()] = path
		names = append(names, s.env())
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "HOMING_") || name == configEnv || serviceEnv.MatchString(name) {
			continue
		}
		path, ok := byName[name]
		if !ok {
			return &Error{Where: name, Text: "there is no setting for this environment variable" + didYouMean(name, names)}
		}
		if err := l.set(name, path, value); err != nil {
			return err
		}
	}
	return nil
}
