package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/homing-mq/homing/internal/textfile"
)

// Mask stands in the place of a secret.
const Mask = "******"

// secretAt finds a secret in a line of the file.
var secretAt = regexp.MustCompile(`(secret["']?\s*:\s*)("[^"]*"?|'[^']*'?|[^\s,}#]+)`)

// maskLine hides secrets in a line that an error shows.
func maskLine(line string) string { return secretAt.ReplaceAllString(line, "${1}"+Mask) }

// expand puts environment variables in the place of ${NAME}; $${ is ${.
func expand(text string, env map[string]string) (string, error) {
	if !strings.Contains(text, "${") {
		return text, nil
	}
	var out strings.Builder
	for i := 0; i < len(text); {
		switch rest := text[i:]; {
		case strings.HasPrefix(rest, "$${"):
			out.WriteString("${")
			i += 3
		case strings.HasPrefix(rest, "${"):
			name, _, ok := strings.Cut(rest[2:], "}")
			if !ok || name == "" {
				return "", errors.New("has ${ without a name and }; write ${NAME} for an environment variable, $${ for ${ itself")
			}
			value, ok := env[name]
			if !ok {
				return "", fmt.Errorf("names the environment variable %s, which is not set; set it, or write $${ for ${ itself", name)
			}
			out.WriteString(value)
			i += 3 + len(name)
		default:
			out.WriteByte(text[i])
			i++
		}
	}
	return out.String(), nil
}

// readSecrets reads the files of secrets. Their paths are relative to the
// configuration file's directory.
func (l *loader) readSecrets(file string) error {
	keys := l.cfg.Auth.AccessKeys
	for i := range keys {
		k := &keys[i]
		if k.SecretFile == "" {
			continue
		}
		if k.Secret != "" {
			return l.errorf("auth.access-keys", "has secret and secret-file for %q; give one of them", k.Key)
		}
		if !filepath.IsAbs(k.SecretFile) && file != "" {
			k.SecretFile = filepath.Join(filepath.Dir(file), k.SecretFile)
		}
		data, err := textfile.Read(k.SecretFile)
		if err != nil {
			return l.errorf("auth.access-keys", "cannot read the secret-file of %q: %v", k.Key, err)
		}
		k.Secret = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if k.Secret == "" {
			return l.errorf("auth.access-keys", "has a secret-file of %q that is empty: %s", k.Key, k.SecretFile)
		}
	}
	return nil
}

// SecretFiles are the files that hold secrets, but the users file: the configuration
// file itself if it does.
func (c *Config) SecretFiles(file string) (paths []string) {
	inFile := false
	for i := range c.Auth.AccessKeys {
		k := &c.Auth.AccessKeys[i]
		if k.SecretFile != "" {
			paths = append(paths, k.SecretFile)
		}
		inFile = inFile || k.Secret != "" && k.SecretFile == ""
	}
	if inFile && file != "" {
		paths = append(paths, file)
	}
	if c.TLS.Key != "" {
		paths = append(paths, c.TLS.Key)
	}
	return paths
}

// environment makes a map of NAME=value; the last one of several counts.
func environment(list []string) map[string]string {
	m := make(map[string]string, len(list))
	for _, e := range list {
		name, value, _ := strings.Cut(e, "=")
		m[name] = value
	}
	return m
}
