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
	Templates     Templates
	Pool          Pool
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

// Templates are the bounds of what is kept of saved microVMs that starts go on from.
type Templates struct {
	MaxSizeMiB int // of all together; 0: there are none, and every start boots
	MaxAgeDays int // since it was last used
}

// Pool says how many microVMs wait for sandboxes.
type Pool struct {
	Size   int    // for each image
	Max    int    // in all
	Images string // names, with commas between them
}

// defaults are what holds where the file says nothing.
func defaults() User {
	return User{Engine: sandbox.EngineAuto, Templates: Templates{MaxSizeMiB: 4096, MaxAgeDays: 30}, Pool: Pool{Max: 16}}
}

// PoolImages are the names of p.Images.
func PoolImages(p Pool) (names []string) {
	for name := range strings.SplitSeq(p.Images, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// number sets an integer that must be within bounds.
func number(name string, low, high int64, set func(*User, int)) key[User] {
	return key[User]{name, low, func(u *User, value any) string {
		n := value.(int64)
		if n < low || n > high {
			return fmt.Sprintf("%s %d is out of bounds; use %d to %d", name, n, low, high)
		}
		set(u, int(n))
		return ""
	}}
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
		{"templates", []key[User]{
			number("max_size_mib", 0, 1<<30, func(u *User, n int) { u.Templates.MaxSizeMiB = n }),
			number("max_age_days", 1, 3650, func(u *User, n int) { u.Templates.MaxAgeDays = n }),
		}},
		{"pool", []key[User]{
			number("size", 0, 1000, func(u *User, n int) { u.Pool.Size = n }),
			number("max", 0, 1000, func(u *User, n int) { u.Pool.Max = n }),
			{"images", "base, python", func(u *User, value any) string {
				u.Pool.Images = value.(string)
				if len(PoolImages(u.Pool)) == 0 {
					return fmt.Sprintf("images %.80q names none", value)
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
		return defaults(), nil
	}
	if err != nil {
		return User{}, sandbox.Errorf(sandbox.Invalid, "", "read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return User{}, sandbox.Errorf(sandbox.Invalid, "", "read the configuration %s: %w", path, err)
	}
	u, _, problems := parse(data, path, userSchema(), defaults())
	if err := problems.err(); err != nil {
		return User{}, err
	}
	return u, nil
}
