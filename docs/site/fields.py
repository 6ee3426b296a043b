"""An extension of Griffe: the fields of a config class are parameters of its `__init__`, as they are when it runs."""

import griffe


class ConfigFields(griffe.Extension):
    def on_class(self, *, cls: griffe.Class, **kwargs):
        if any(decorator.callable_path.endswith("dataclasses.strict") for decorator in cls.decorators):
            fields = [
                griffe.Parameter(
                    name, annotation=field.annotation, default=field.value, kind=griffe.ParameterKind.keyword_only
                )
                for name, field in cls.attributes.items()
                if field.annotation is not None and "property" not in field.labels
            ]
            own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(own, *fields)))
