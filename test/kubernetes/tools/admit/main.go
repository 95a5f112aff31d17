// Command admit reads the objects of a chart from standard input, as YAML, and prints what a Kubernetes API server
// would refuse of them, by Kubernetes' own code: fields that a kind does not have, custom resources that their
// definitions (files, as arguments) do not allow, and pods that do not fit the restricted Pod Security Standard. It
// ends with 1 if there is any.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	sigsyaml "sigs.k8s.io/yaml"
)

// definition is how a custom resource must look.
type definition struct {
	validator  validation.SchemaValidator
	structural *structuralschema.Structural
}

type head struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

func main() {
	faults, count, err := admit(os.Stdin, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "admit:", err)
		os.Exit(2)
	}
	for _, fault := range faults {
		fmt.Println(fault)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
	fmt.Printf("%d objects would be accepted\n", count)
}

func admit(input io.Reader, files []string) (faults []string, count int, err error) {
	definitions, err := readDefinitions(files)
	if err != nil {
		return nil, 0, err
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, 0, err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(input))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return faults, count, nil
		}
		if err != nil {
			return nil, 0, err
		}
		var of head
		if err := sigsyaml.Unmarshal(document, &of); err != nil {
			return nil, 0, err
		}
		if of.Kind == "" {
			continue
		}
		count++
		add := func(format string, details ...any) {
			faults = append(faults, fmt.Sprintf("%s %s: %s", of.Kind, of.Name, fmt.Sprintf(format, details...)))
		}
		if custom, ok := definitions[of.GroupVersionKind()]; ok {
			checkCustom(custom, document, add)
			continue
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			add("%v", err)
			continue
		}
		if template := podOf(object); template != nil {
			level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
			result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec))
			if !result.Allowed {
				add(`violates PodSecurity "restricted:latest": %s`, result.ForbiddenDetail())
			}
		}
	}
}

func checkCustom(custom definition, document []byte, add func(string, ...any)) {
	var object map[string]any
	if err := sigsyaml.Unmarshal(document, &object); err != nil {
		add("%v", err)
		return
	}
	for _, fault := range validation.ValidateCustomResource(nil, object, custom.validator) {
		add("%v", fault)
	}
	track := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	if unknown := pruning.PruneWithOptions(object, custom.structural, true, track); len(unknown) > 0 {
		add("unknown fields %s", strings.Join(unknown, ", "))
	}
}

// podOf is the pod that an object is or makes, or nil.
func podOf(object runtime.Object) *corev1.PodTemplateSpec {
	switch object := object.(type) {
	case *corev1.Pod:
		return &corev1.PodTemplateSpec{ObjectMeta: object.ObjectMeta, Spec: object.Spec}
	case *appsv1.Deployment:
		return &object.Spec.Template
	case *appsv1.StatefulSet:
		return &object.Spec.Template
	}
	return nil
}

func readDefinitions(files []string) (map[schema.GroupVersionKind]definition, error) {
	definitions := map[schema.GroupVersionKind]definition{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := sigsyaml.Unmarshal(content, &crd); err != nil {
			return nil, err
		}
		for _, version := range crd.Spec.Versions {
			kind := schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}
			definitions[kind], err = readDefinition(version)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return definitions, nil
}

func readDefinition(version apiextensionsv1.CustomResourceDefinitionVersion) (definition, error) {
	var internal apiextensions.JSONSchemaProps
	err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		version.Schema.OpenAPIV3Schema, &internal, nil)
	if err != nil {
		return definition{}, err
	}
	validator, _, err := validation.NewSchemaValidator(&internal)
	if err != nil {
		return definition{}, err
	}
	structural, err := structuralschema.NewStructural(&internal)
	return definition{validator, structural}, err
}
