package oci

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// hubRegistry is what the library calls docker.io.
const hubRegistry = "index.docker.io"

// repositoryRE is the form of a repository's name: the OCI distribution specification, "Pulling manifests".
var repositoryRE = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
})

// registryRE is a host as RFC 1123 has it, or an IPv6 address, with or without a port.
var registryRE = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(:[0-9]+)?$`)
})

// Name is a reference to an image in a registry.
type Name struct {
	ref name.Reference
}

// ParseName reads a reference as docker does: without a registry it is one of docker.io, there without a directory one of
// library/, and without a tag or digest it is the tag latest.
func ParseName(s string) (Name, error) {
	if tagged, digest, ok := strings.Cut(s, "@"); ok { // the digest counts, as for docker
		if i := strings.LastIndexByte(tagged, ':'); i > strings.LastIndexByte(tagged, '/') {
			s = tagged[:i] + "@" + digest
		}
	}
	ref, err := name.ParseReference(s, name.WithDefaultRegistry(hubRegistry), name.WeakValidation)
	if err != nil || !repositoryRE().MatchString(ref.Context().RepositoryStr()) || !registryRE().MatchString(ref.Context().RegistryStr()) {
		return Name{}, sandbox.Errorf(sandbox.Invalid, "write it as docker does, such as python:3.12-alpine or ghcr.io/owner/name:tag", "%.200q is not a reference to an image", s)
	}
	if d, ok := ref.(name.Digest); ok {
		if err := checkDigest(d.DigestStr()); err != nil {
			return Name{}, sandbox.Errorf(sandbox.Invalid, "write it as name@sha256:<64 hex digits>", "%.200q: %w", s, err)
		}
	}
	return Name{ref}, nil
}

// Registry is its registry, such as docker.io.
func (n Name) Registry() string {
	if r := n.ref.Context().RegistryStr(); r != hubRegistry {
		return r
	}
	return "docker.io"
}

// Short is the form that people use: python:3.12-alpine, ghcr.io/owner/name@sha256:….
func (n Name) Short() string {
	repo := n.ref.Context().RepositoryStr()
	if n.Registry() == "docker.io" {
		if rest, ok := strings.CutPrefix(repo, "library/"); ok && !strings.Contains(rest, "/") {
			return rest + n.separator() + n.ref.Identifier()
		}
		// What would be taken for a registry keeps the real one before it.
		if first, _, _ := strings.Cut(repo, "/"); first != "localhost" && !strings.Contains(first, ".") {
			return repo + n.separator() + n.ref.Identifier()
		}
	}
	return n.String()
}

// String is the form with nothing left out: docker.io/library/python:3.12-alpine.
func (n Name) String() string {
	return fmt.Sprintf("%s/%s%s%s", n.Registry(), n.ref.Context().RepositoryStr(), n.separator(), n.ref.Identifier())
}

// Digest is that of a reference by digest, else empty.
func (n Name) Digest() string {
	if d, ok := n.ref.(name.Digest); ok {
		return d.DigestStr()
	}
	return ""
}

func (n Name) separator() string {
	if n.Digest() != "" {
		return "@"
	}
	return ":"
}
