package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// User is what a user's own configuration says. A project can neither change it nor loosen what it demands.
type User struct {
	// Engine of sandboxes that name none: one of sandbox.Engines.
	Engine string
	// RequireJailer refuses to start a VMM that is not under Firecracker's jailer.
	RequireJailer bool
	// Mirrors of registries, which are tried first: registry=mirror pairs with commas between them.
	Mirrors string
	// AllowProjects are directories, with commas between them, whose projects may have their Dockerfiles built without a question.
	AllowProjects string
}

// MayBuild reports whether the project in a directory (absolute, without symbolic links) is one of AllowProjects, or below one.
func (u User) MayBuild(project string) bool {
	for dir := range strings.SplitSeq(u.AllowProjects, ",") {
		dir, err := filepath.EvalSymlinks(strings.TrimSpace(dir))
		if err != nil {
			continue // one that is gone allows nothing
		}
		if rel, err := filepath.Rel(dir, project); err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}

func userSchema() schema[User] {
	return schema[User]{
		{"engine", []key[User]{
			{"default", sandbox.EngineAuto, func(u *User, value any) string {
				u.Engine = value.(string)
				if err := sandbox.ValidateEngine(u.Engine); err != nil || u.Engine == "" {
					return fmt.Sprintf("default %.40q is not an engine; choose one of %s", value, strings.Join(sandbox.Engines, ", "))
				}
				return ""
			}},
		}},
		{"security", []key[User]{
			{"require_jailer", true, func(u *User, value any) string {
				u.RequireJailer = value.(bool)
				return ""
			}},
		}},
		{"build", []key[User]{
			{"allow_projects", "/home/me/work, /home/me/project", func(u *User, value any) string {
				u.AllowProjects = value.(string)
				for dir := range strings.SplitSeq(u.AllowProjects, ",") {
					if !filepath.IsAbs(strings.TrimSpace(dir)) {
						return fmt.Sprintf("allow_projects %.80q is not an absolute path of a directory, with commas between several", value)
					}
				}
				return ""
			}},
		}},
		{"registry", []key[User]{
			{"mirrors", "docker.io=mirror.example.com:5000", func(u *User, value any) string {
				u.Mirrors = value.(string)
				for pair := range strings.SplitSeq(u.Mirrors, ",") {
					of, at, _ := strings.Cut(strings.TrimSpace(pair), "=")
					if of == "" || at == "" {
						return fmt.Sprintf("mirrors %.80q is not registry=mirror, with commas between several", value)
					}
				}
				return ""
			}},
		}},
	}
}

// LoadUser reads the file at path. When there is none, everything is left to the defaults. The error is a *sandbox.Error of
// kind Invalid around Problems.
func LoadUser(path string) (User, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return User{Engine: sandbox.EngineAuto}, nil
	}
	if err != nil {
		return User{}, sandbox.Errorf(sandbox.Invalid, "", "read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return User{}, sandbox.Errorf(sandbox.Invalid, "", "read the configuration %s: %w", path, err)
	}
	u, _, problems := parse(data, path, userSchema())
	if err := problems.err(); err != nil {
		return User{}, err
	}
	if u.Engine == "" {
		u.Engine = sandbox.EngineAuto
	}
	return u, nil
}
